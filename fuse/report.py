"""The table of a run: each backbone alone, then the fusion."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from fuse.score import Score


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores on the test faces, with all that a reader needs to know how far to trust them."""

    title: str
    classes: tuple[str, ...]
    scores: list[Score]
    seeds: int
    notes: list[str]
    left_out: Counter
    out: Path | None

    def record(self) -> dict:
        return {"title": self.title, "classes": list(self.classes), "seeds": self.seeds,
                "scores": [asdict(score) for score in self.scores], "notes": self.notes,
                "left_out": dict(self.left_out), "out": str(self.out) if self.out else None}

    def text(self) -> str:
        numbers = [f"[{n}]" for n in range(len(self.classes))]
        header = ["", "dim", "accuracy", "macro-F1", "95 % interval", *numbers, "n"]
        rows = [header, *([_name(score), str(score.dim), _percent(score.accuracy), _with_std(score, self.seeds),
                           "{:.1f} to {:.1f}".format(*(100 * end for end in score.macro_f1_interval)),
                           *(_percent(value) for value in score.recall), str(score.n)] for score in self.scores)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [self.title] + ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(
            row[1:], widths[1:], strict=True))]).rstrip() for row in rows]
        named = ", ".join(f"[{n}] {name} ({count})" for n, (name, count) in enumerate(
            zip(self.classes, self.scores[0].support, strict=True)))
        lines.append(f"recall of {named}; all in %, means of {self.seeds} seed{'s' if self.seeds > 1 else ''}")
        lines += self.notes
        lines += [f"left out: {count} faces, {reason}" for reason, count in self.left_out.items()]
        return "\n".join(lines + ([f"run: {self.out}"] if self.out else []))


def _name(score: Score) -> str:
    return score.name + (" UNTRAINED" if score.untrained else "")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _with_std(score: Score, seeds: int) -> str:
    return _percent(score.macro_f1) + (f" ±{100 * score.macro_f1_std:.1f}" if seeds > 1 else "")

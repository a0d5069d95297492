"""The figures of a fusion as a person reads them in a terminal."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from twofold.fuse.scores.statistics import Comparison
from twofold.fuse.tables.paper_tables import paper_table

if TYPE_CHECKING:
    from twofold.fuse.fuse import Fusion
    from twofold.fuse.scores.scored_head import Figures

UNTRAINED = "UNTRAINED weights: random features, the figures say nothing about the backbones"


def figures_table(made: "Fusion") -> str:
    """The whole report: figures, recalls, the comparison, what was left out."""
    classes = made.classes.classes
    lines = [_headline(made), ""]
    lines += paper_table(made.systems, classes) if made.settings.table == "paper" else [
        *columns(figures_rows(made.systems)), "", *columns(recall_rows(made.systems, classes), left=1)]
    lines += absent_lines(made.systems, classes)
    if any(one.system.untrained for one in made.systems):
        lines += ["", f"* {UNTRAINED}"]
    if made.comparison:
        lines += ["", f"fusion against the best single ({made.best_single}): {compared(made.comparison)}"]
    fused = made.systems[-1].system
    if fused.gates:
        lines += ["mean contribution: " + ", ".join(f"{name} {share:.2f}" for name, share in fused.gates.items())]
    lines += [f"calibration error of the fusion: {made.systems[-1].ece:.3f}, with temperature {fused.temperature:.2f} "
              f"(fitted on validation) {made.systems[-1].ece_calibrated:.3f}"]
    lines += ["", *(f"note: {note}" for note in made.notes)]
    where = f"; run in {made.out}" if made.out else ""
    return "\n".join([*lines, f"{made.seconds:.1f} s{where}"])


def columns(rows: list[tuple[str, ...]], *, left: int = 2) -> list[str]:
    """Lines of aligned columns: the first `left` to the left, numbers to the right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if c < left else cell.rjust(width)
                      for c, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def comparison_record(found: Comparison | None, best: str) -> dict | None:
    """As metrics.json holds it."""
    return asdict(found) | {"best_single": best} if found else None


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals, `-` if there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def span(interval: tuple[float, float]) -> str:
    """An interval as percentages."""
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _headline(made: "Fusion") -> str:
    fused, settings = made.systems[-1], made.settings
    scored = f"{settings.folds} folds by group" if settings.folds else "the test split"
    seeds = fused.system.members.shape[0]
    return (f"{made.classes.name} ({settings.target}), head {settings.head}, {seeds} seed{'s' * (seeds > 1)}, "
            f"{len(fused.system.truth)} faces of {scored}; 95 % intervals by bootstrap of groups")


def figures_rows(systems: "list[Figures]") -> list[tuple[str, ...]]:
    """A line a system: its figures and their intervals."""
    out = [("#", "features", "dim", "accuracy", "95 %", "macro-F1", "95 %", "one seed", "UAR", "ECE", "val F1")]
    for number, one in enumerate(systems, 1):
        star = " * UNTRAINED" if one.system.untrained else ""
        each = one.seeds_macro_f1
        spread = f" ± {100 * np.std(each, ddof=1):.1f}" if len(each) > 1 else ""
        out.append((str(number), one.system.name + star, str(one.system.dim), percent(one.scores.accuracy),
                    span(one.accuracy_interval), percent(one.scores.macro_f1), span(one.macro_f1_interval),
                    f"{100 * np.mean(each):.1f}{spread}", percent(one.scores.uar), f"{one.ece:.3f}",
                    percent(one.system.val_macro_f1)))
    return out


def recall_rows(systems: "list[Figures]", classes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A line a class: how many faces of it each system finds."""
    header = ("recall of", "n", *(f"#{number}" for number in range(1, len(systems) + 1)))
    return [header, *((name, str(systems[0].scores.n[c]), *(percent(one.scores.recall[c]) for one in systems))
                      for c, name in enumerate(classes))]


def absent_lines(systems: "list[Figures]", classes: tuple[str, ...]) -> list[str]:
    """What classes without faces do to macro-F1; no lines if every class has faces."""
    absent = [name for c, name in enumerate(classes) if not systems[0].scores.n[c]]
    if not absent:
        return []
    other = ", ".join(f"#{number} {percent(one.scores.macro_f1_present)}" for number, one in enumerate(systems, 1))
    return ["", f"no faces of {', '.join(absent)}: such a class counts 0 in macro-F1, the mean over all "
                f"{len(classes)} classes; over the {len(classes) - len(absent)} that have faces it is {other}"]


def compared(found: Comparison) -> str:
    """One system against another, in a sentence."""
    return (f"macro-F1 {100 * found.difference:+.2f} "
            f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}] by paired bootstrap; right where the other is wrong "
            f"{found.only_a} : {found.only_b}, McNemar p = {found.p_mcnemar:.2g}")

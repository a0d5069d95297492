"""The figures of scored heads as a person reads them in a terminal."""

from collections.abc import Sequence
from dataclasses import asdict

from twofold.fuse.scores.scored_head import Figures
from twofold.fuse.scores.statistics import Comparison
from twofold.fuse.tables.columns import columns, percent, span, spread
from twofold.fuse.tables.paper_tables import paper_table

UNTRAINED = "UNTRAINED weights: random features, the figures say nothing about the backbones"


def figures_table(heads: Sequence[Figures], classes: tuple[str, ...], *, style: str = "plain") -> list[str]:
    """Figures and recalls of heads scored on the same faces, `plain` or as the `paper` has them."""
    lines = paper_table(heads, classes) if style == "paper" else [
        *columns(figures_rows(heads)), "", *columns(recall_rows(heads, classes), left=1)]
    lines += absent_lines(heads, classes)
    return [*lines, "", f"* {UNTRAINED}"] if any(each.head.untrained for each in heads) else lines


def fusion_lines(fused: Figures, comparison: Comparison | None, best_single: str) -> list[str]:
    """What is said about a fusion below its table: its gain, what each stream contributes, calibration."""
    head = fused.head
    lines = [f"fusion against the best single ({best_single}): {compared(comparison)}"] if comparison else []
    if head.shares:
        lines += ["mean contribution: " + ", ".join(f"{name} {share:.2f}" for name, share in head.shares.items())]
    return [*lines, f"calibration error of the fusion: {fused.ece:.3f}, with temperature {head.temperature:.2f} "
                    f"(fitted on validation) {fused.ece_calibrated:.3f}"]


def figures_rows(heads: Sequence[Figures]) -> list[tuple[str, ...]]:
    """A line a head: its figures and their intervals."""
    rows = [("#", "features", "dim", "accuracy", "95 %", "macro-F1", "95 %", "one seed", "UAR", "ECE", "val F1")]
    for number, each in enumerate(heads, 1):
        star = " * UNTRAINED" if each.head.untrained else ""
        rows.append((str(number), each.head.name + star, str(each.head.dim), percent(each.scores.accuracy),
                     span(each.accuracy_interval), percent(each.scores.macro_f1), span(each.macro_f1_interval),
                     spread(each.seeds_macro_f1), percent(each.scores.uar), f"{each.ece:.3f}",
                     percent(each.head.val_macro_f1)))
    return rows


def recall_rows(heads: Sequence[Figures], classes: Sequence[str]) -> list[tuple[str, ...]]:
    """A line a class: how many faces of it each head finds."""
    header = ("recall of", "n", *(f"#{number}" for number in range(1, len(heads) + 1)))
    return [header, *((name, str(heads[0].scores.n[c]), *(percent(each.scores.recall[c]) for each in heads))
                      for c, name in enumerate(classes))]


def absent_lines(heads: Sequence[Figures], classes: Sequence[str]) -> list[str]:
    """What classes without faces do to macro-F1; no lines if every class has faces."""
    absent = [name for c, name in enumerate(classes) if not heads[0].scores.n[c]]
    if not absent:
        return []
    other = ", ".join(f"#{number} {percent(each.scores.macro_f1_present)}" for number, each in enumerate(heads, 1))
    return ["", f"no faces of {', '.join(absent)}: such a class counts 0 in macro-F1, the mean over all "
                f"{len(classes)} classes; over the {len(classes) - len(absent)} that have faces it is {other}"]


def compared(comparison: Comparison) -> str:
    """One head against another, in a sentence."""
    return (f"macro-F1 {100 * comparison.difference:+.2f} "
            f"[{100 * comparison.low:+.2f}, {100 * comparison.high:+.2f}] by paired bootstrap; right where the other "
            f"is wrong {comparison.only_a} : {comparison.only_b}, McNemar p = {comparison.p_mcnemar:.2g}")


def comparison_record(comparison: Comparison | None, best: str) -> dict | None:
    """As metrics.json holds it."""
    return asdict(comparison) | {"best_single": best} if comparison else None

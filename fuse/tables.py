"""Tables of stage two in a terminal: columns, figures with their uncertainty, the paper's Tables 1 and 2."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from twofold.data.labels import basic_emotions
from twofold.fuse.core.predictions import Figures
from twofold.fuse.core.task import Task
from twofold.fuse.metrics.metric import Metric
from twofold.fuse.metrics.scores import ACCURACY, SCORE
from twofold.fuse.metrics.statistics import FEWEST_GROUPS, Comparison


def columns(rows: Sequence[tuple[str, ...]], *, left: int = 2) -> list[str]:
    """Lines of aligned columns: the first `left` to the left, numbers to the right."""
    return grouped_columns(rows, [("", len(rows[0]))], left=left)[1:]


def grouped_columns(rows: Sequence[tuple[str, ...]], groups: Sequence[tuple[str, int]], *, left: int = 2) -> list[str]:
    """Lines as of `columns`, a title over each group of columns. groups: (title, number of columns), all in order."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    titles, start, ends = [], 0, set()
    for title, count in groups:
        width = sum(widths[start:start + count]) + 2 * (count - 1)
        widths[start] += max(0, len(title) - width)
        titles.append(f"{title:-^{max(width, len(title))}}" if title else " " * width)
        start += count
        ends.add(start)
    lines = [" | ".join(titles)]
    for row in rows:
        cells = [cell.ljust(width) if c < left else cell.rjust(width)
                 for c, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("".join(cell + (" | " if c + 1 in ends else "  ") for c, cell in enumerate(cells)).rstrip(" |"))
    return lines


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals, `-` if there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


UNTRAINED = "UNTRAINED weights: random features, the figures say nothing about the backbones"
MOST_SPANS = 4  #: metrics whose intervals a table in a terminal has room for
NOTABLE = 0.01  #: of the score: a line says when one sample moves it by more


SHARES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "map": "mAP", "recall": "recall", "precision": "precision",
          "f1": "F1", "average_precision": "AP"}  #: figures that tables give in percent


def say(metric: Metric, value: float | None) -> str:
    """A value of a metric: shares of samples called right in percent, others as they are."""
    return say_figure(metric.key, value)


def is_share(key: str) -> bool:
    """Whether tables give this figure, or that of one task among several, in percent."""
    return any(key == name or key.endswith(f"_{name}") for name in SHARES)


def say_figure(key: str, value: float | None) -> str:
    if is_share(key):
        return percent(value)
    return "-" if value is None or np.isnan(value) else f"{value:.3f}" if isinstance(value, float) else str(value)


def say_interval(metric: Metric, interval: Sequence[float] | None, *, sign: str = "") -> str:
    """An interval of a metric, `-` if there is none."""
    scale, digits = (100, 1) if is_share(metric.key) else (1, 3)
    return f"[{', '.join(f'{scale * end:{sign}.{digits}f}' for end in interval)}]" if interval else "-"


def say_difference(metric: Metric, difference: float) -> str:
    return "-" if np.isnan(difference) else f"{100 * difference:+.2f}" if is_share(metric.key) else f"{difference:+.3f}"


def say_spread(metric: Metric, values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation of a metric; `-` where one has none."""
    if np.isnan(values).any():
        return "-"
    scale, digits = (100, 1) if is_share(metric.key) else (1, 3)
    deviation = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{deviation}"


def heading(key: str) -> str:
    """A figure's name at the head of a column."""
    return SHARES.get(key, {"n": "samples", "ccc": "CCC", "pearson": "Pearson", "rmse": "RMSE"}.get(
        key, key.replace("_", " ")))


def figures_table(heads: Sequence[Figures], *, style: str = "plain") -> list[str]:
    """Figures of heads scored on the same samples and, of each class, label or number, the first of them; `plain` or as
    the `paper` has them."""
    if style == "paper" and heads[0].scores:
        lines = paper_table(heads, heads[0].task.outputs[:heads[0].task.classes])
    else:
        lines = figures_lines(heads)
        for part in heads[0].task.parts:
            key = part.task.shown
            rows = [(name, str(heads[0].by_output[name]["n"]), *(
                say_figure(key, one.by_output[name][key]) for one in heads)) for name in part.task.outputs]
            header = (f"{heading(key)} of", "samples", *(f"#{number}" for number in range(1, len(heads) + 1)))
            lines += ["", *columns([header, *rows], left=1)]
    return [*lines, "", *uncertainty_lines(heads)]


def output_lines(figures: Figures) -> list[str]:
    """All figures of each class, label or number."""
    lines: list[str] = []
    for part in figures.task.parts:
        keys = list(figures.by_output[part.task.outputs[0]])
        rows = [(name, *(say_figure(key, figures.by_output[name][key]) for key in keys)) for name in part.task.outputs]
        first = "class" if part.task.classes else "column"
        lines += [*([""] if lines else []), *columns([(first, *map(heading, keys)), *rows], left=1)]
    return lines


def figures_lines(heads: Sequence[Figures]) -> list[str]:
    """One line per head: its figures and their intervals, under titles that say what they are of."""
    task, ensembles = heads[0].task, list(dict.fromkeys(each.predictions.ensemble for each in heads))
    seeds = max(len(each.predictions.outputs) for each in heads)
    validated = any(each.system.val_score == each.system.val_score for each in heads)
    several = [metric for metric in task.metrics if metric in (ACCURACY, SCORE, task.score)]  # shown of single seeds
    further = ("UAR", "calibration error") if heads[0].scores else ()
    scores = {part.prefix + part.task.score.key for part in task.parts}
    metrics = [metric for metric in task.metrics if len(task.parts) == 1 or metric.key in scores]  # of several tasks
    # where there is no room, the intervals of the others stand in metrics.json alone
    spans = [metric for metric in metrics if len(metrics) <= MOST_SPANS or metric in several]
    groups = [("", 3), (ensembles[0] if len(ensembles) == 1 else "mean of a head's members",
                        len(metrics) + len(spans) + len(further))]
    groups += [("one seed, mean ± sd", len(several))] if seeds > 1 else []
    groups += [("validation", 1)] if validated else []
    rows: list[tuple[str, ...]] = [
        ("#", "features", "dim", *(text for metric in metrics for text in (
            metric.name, *(["95 %"] if metric in spans else []))), *further,
         *(metric.name for metric in several if seeds > 1), *((heads[0].system.score_name,) if validated else ()))]
    for number, each in enumerate(heads, 1):
        ensemble = f" ({each.predictions.ensemble})" if len(ensembles) > 1 else ""
        star = " * UNTRAINED" if each.system.untrained else ""
        rows.append((
            str(number), each.system.name + ensemble + star, str(each.system.dim),
            *(text for metric in metrics for text in (say(metric, each.of[metric.key].value), *(
                [say_interval(metric, each.of[metric.key].interval)] if metric in spans else []))),
            *((percent(each.scores.uar), f"{each.reliability.error:.3f}") if each.scores and each.reliability else ()),
            *(say_spread(metric, each.of[metric.key].seeds) for metric in several if seeds > 1),
            *((say(task.score, each.system.val_score),) if validated else ())))
    return grouped_columns(rows, groups)


def uncertainty_lines(heads: Sequence[Figures]) -> list[str]:
    """How far the figures of these heads, scored on the same samples, can be trusted: what the intervals are or why
    there are none; absent classes; by how much one sample of the rarest class moves the score; untrained weights."""
    samples, groups = len(heads[0].predictions), heads[0].groups
    if groups < FEWEST_GROUPS:
        lines = [f"no intervals: the {samples} samples are of {'1 group' if groups == 1 else f'{groups} groups'} "
                 f"(subjects, videos, duplicates), and fewer than {FEWEST_GROUPS} give no reliable interval"]
    else:
        alike = any(not figure.interval for each in heads for figure in each.of.values())
        lines = [f"95 %: how figures vary with the samples, by bootstrap of their {groups} groups"
                 + ("; ± how they vary with the seed" if len(heads[-1].predictions.outputs) > 1 else "")
                 + ("; - where all score alike, or few groups have most samples" if alike else "")]
    lines += _rare_classes(heads)
    return [*lines, f"* {UNTRAINED}"] if any(each.system.untrained for each in heads) else lines


def _rare_classes(heads: Sequence[Figures]) -> list[str]:
    """Of tasks with classes: those without samples, and by how much one sample of the rarest moves macro-F1."""
    table, lines = heads[-1].scores, []
    if table is None:
        return []
    classes = heads[0].task.outputs[:len(table.n)]
    if absent := [name for name, count in zip(classes, table.n, strict=True) if not count]:
        other = ", ".join(f"#{number} {percent(each.scores.score_present)}" for number, each in enumerate(heads, 1)
                          if each.scores)
        lines.append(f"no samples of {', '.join(absent)}: such a class counts 0 in {SCORE.name}, the mean over all "
                     f"{len(classes)} classes; over the {len(classes) - len(absent)} that have samples it is {other}")
    rare = int(min(np.flatnonzero(table.n), key=lambda c: table.n[c]))
    count, hits = table.n[rare], table.confusion[rare, rare]
    predicted = count + table.confusion[:, rare].sum()
    worth = float(2 * (hits + 1) / (predicted + 1) - 2 * hits / predicted) / len(classes)
    if worth >= NOTABLE and hits < count:
        samples = f"{count} samples" if count > 1 else "1 sample"
        lines.append(f"few samples: one more hit among the {samples} of {classes[rare]} is worth "
                     f"{100 * worth:.1f} points of {SCORE.name}")
    return lines


NAMED = 12  #: weights of a head that are shown, at most


def fusion_lines(fused: Figures, comparison: Comparison | None, best_single: str) -> list[str]:
    """The lines below the table of a fusion: its gain, the weight of each stream, calibration."""
    system = fused.system
    lines = [f"fusion against the single that is best on validation ({best_single}): "
             f"{describe_comparison(comparison, fused.task)}"] if comparison else []
    if weights := system.stream_weights:
        shown = sorted(weights, key=lambda name: -weights[name])[:NAMED] if len(weights) > NAMED else weights
        more = f"; {len(weights) - NAMED} more in metrics.json" if len(weights) > NAMED else ""
        lines += ["mean weight: " + ", ".join(f"{name} {weights[name]:.2f}" for name in shown) + more]
    if system.temperature == 1 or not fused.raw_reliability:  # zero-shot may not look at compound labels to fit one
        return lines
    return [*lines, f"calibration error of the fusion without its temperature of {system.temperature:.2f} (fitted on "
                    f"validation): {fused.raw_reliability.error:.3f}"]


def describe_comparison(comparison: Comparison, task: Task) -> str:
    """One head against another, in a sentence."""
    if comparison.interval is None:
        verdict = "" if comparison.groups >= FEWEST_GROUPS else f" (no interval from {comparison.groups} groups)"
    else:
        verdict = f" {say_interval(task.score, comparison.interval, sign='+')} (95 %), {comparison.verdict}"
    difference = say_difference(task.score, comparison.difference)
    better = "that only one of them predicts right" if task.score is SCORE else "on which one of them is better"
    return (f"{task.score.name} {difference}{verdict}; samples {better} {comparison.only_a} : {comparison.only_b}, "
            f"p = {comparison.p_value:.2g} by sign flips of groups")


def comparison_record(comparison: Comparison | None, best: str, *, chosen_on: str) -> dict | None:
    """As metrics.json holds it. chosen_on: the samples by which the other head was found to be the best."""
    return None if comparison is None else asdict(comparison) | {
        "difference": None if np.isnan(comparison.difference) else comparison.difference,  # no sample has a target
        "within_noise": comparison.within_noise, "best_single": best, "best_single_chosen_on": chosen_on}


ROWS = ("angrily_surprised", "disgustedly_surprised", "fearfully_surprised", "happily_surprised", "sadly_angry",
        "sadly_fearful", "sadly_surprised")
SAMPLES = (38, 35, 116, 135, 33, 22, 18)  #: of RAF-DB's 397-image test split, in the order of ROWS


#: columns of the paper: predicted right of SAMPLES, recounted from its cells, and the F1 of its prose; nan where only
#: the table, which contradicts the cells, gives one
PUBLISHED = {"ViT": ((23, 18, 93, 125, 28, 16, 7), 0.7025), "PosterV2": ((20, 13, 94, 121, 25, 14, 7), 0.6357),
             "ResNet": ((21, 21, 88, 116, 28, 14, 10), 0.6819), "Ensemble": ((19, 16, 101, 116, 28, 17, 5), np.nan)}


def paper_table(heads: Sequence[Figures], classes: tuple[str, ...]) -> list[str]:
    """The paper's rows (accuracy of each class, then acc and F1), a column a head; percent.

    Its classes stand in its order, others in their own. On RAF-DB's 397-image split its columns stand beside ours.
    """
    names = ROWS if set(classes) == set(ROWS) else classes
    place = [classes.index(name) for name in names]
    scores = [each.scores for each in heads if each.scores]
    same = names == ROWS and tuple(int(n) for n in scores[0].n[place]) == SAMPLES
    beside = PUBLISHED if same else {}
    kind = "Compound Expression" if all(len(basic_emotions(name)) == 2 for name in names) else "class"
    rows = [(kind, *(f"#{number}" for number in range(1, len(heads) + 1)), *(f"paper: {name}" for name in beside))]
    for row, (name, c) in enumerate(zip(names, place, strict=True)):
        said = name.replace("_", " ").title() if basic_emotions(name) else name  # own names stay as they are
        rows.append((said, *(percent(each.recall[c]) for each in scores),
                     *(percent(right[row] / SAMPLES[row]) for right, _ in beside.values())))
    rows.append(("acc", *(percent(each.accuracy) for each in scores),
                 *(percent(sum(right) / sum(SAMPLES)) for right, _ in beside.values())))
    rows.append(("F1", *(percent(each.score) for each in scores), *(percent(f1) for _, f1 in beside.values())))
    legend = [f"#{number}  {each.system.name} ({each.predictions.ensemble})" for number, each in enumerate(heads, 1)]
    why = ("paper: acc recounted from its cells (its printed acc row contradicts them), F1 from its prose; the "
           "ensemble's printed acc 73.80 and F1 63.79 are not what its cells give") if same else (
           "the paper's own columns are shown on RAF-DB's 397-image split only")
    return [*columns(rows, left=1), "", *legend, why]

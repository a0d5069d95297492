"""Do the statistics hold? `python -m tests.simulations null|sweep|coverage [--draws 400]`; figures in fuse/MEASURED.md.

null: how often two equally good heads are called different; sweep: what choosing among trials of noise gains over the
figure that is called honest; coverage: how often the 95 % interval contains the true figure of a drawn population.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import twofold
from tests.fuse.conftest import CLASSES, recipe, write_manifest
from twofold.cache.feature_writer import write_feature_file
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate_all
from twofold.fuse.fuse import fuse
from twofold.fuse.metrics.scores import ACCURACY, SCORE, compute_scores
from twofold.fuse.metrics.statistics import compare, interval
from twofold.fuse.report import analysis
from twofold.fuse.runs.read import read_run
from twofold.fuse.sweep import sweep

C = len(CLASSES)
EVEN = np.full(C, 1 / C)
RARE = np.array([0.361, 0.243, 0.03, 0.006, 0.153, 0.08, 0.127])  #: as in FER+'s compounds
RIGHT = np.array([0.7, 0.6, 0.35, 0.3, 0.5, 0.4, 0.7])
QUICK = {"head": "linear", "epochs": 16, "lr": 0.15, "warmup": 0, "seeds": 1, "batch_size": 512, "stream_dropout": 0.0,
         "balanced_sampling": 0.0}
STREAMS = "timm:s0", "timm:s1"
#: populations of `coverage`: shares of the classes, chance of each to be called right, samples per group, spread of the
#: classes among groups (0: alike in all; small: each group shows one class), numbers of groups
POPULATIONS = {
    "rare classes, subjects": (RARE, RIGHT, 20, 5.0, (10, 20, 30)),
    "even classes, subjects": (EVEN, np.full(C, 0.65), 20, 5.0, (10, 30)),
    "even classes, videos": (EVEN, np.full(C, 0.65), 20, 0.3, (10, 30)),
    "rare classes, videos": (RARE, RIGHT, 20, 0.3, (10, 30)),
    "rare classes, single faces": (RARE, RIGHT, 1, 0.0, (100, 290)),
}


def draw_targets(generator: np.random.Generator, sizes: np.ndarray, shares: np.ndarray, spread: float
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Targets and groups (n,) of groups of these sizes, each with more of some classes."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    shown = generator.dirichlet(shares * spread, len(sizes)) if spread else np.tile(shares, (len(sizes), 1))
    draws = generator.random((len(group), 1))
    return np.minimum((shown.cumsum(axis=1)[group] < draws).sum(axis=1), len(shares) - 1), group


def draw_calls(generator: np.random.Generator, target: np.ndarray, group: np.ndarray, right: np.ndarray
               ) -> np.ndarray:
    """(n,) predictions that are right with chance (C,) `right`; some groups of several samples are easier."""
    single = group.max() + 1 == len(group)
    ease = 0 if single else generator.normal(0, 0.12, group.max() + 1)[group]
    other = (target + generator.integers(1, C, len(target))) % C
    return np.where(generator.random(len(target)) < right[target] + ease, target, other)


def write_store(folder: Path, generator: np.random.Generator, splits: Sequence[str], streams: Sequence[np.ndarray],
                target: np.ndarray, group: np.ndarray) -> Path:
    """Write a store of features (n, D) of each stream; splits: of each group."""
    folder.mkdir(parents=True)
    keys = [f"{folder.name}/{row:04d}.png" for row in range(len(target))]
    write_manifest(folder, [(key, splits[g], "", CLASSES[c], f"{folder.name} {g}")
                            for key, c, g in zip(keys, target, group, strict=True)])
    digests = [generator.bytes(32).hex() for _ in keys]
    for number, features in enumerate(streams):
        write_feature_file(folder / f"s{number}.original.h5", recipe=recipe(f"s{number}"), dim=features.shape[1],
                           keys=keys, sha256=digests, features=features.astype(np.float16), failures={})
    return folder


def equal_store(folder: Path, generator: np.random.Generator, splits: Sequence[str], size: int) -> Path:
    """A store of two streams that are equally good by construction, in groups of `size`.

    Each shows a drawn prediction, right in 60 % and independent of the other's. Where they agree every head follows
    both; where they differ each is as likely to be right, so that whatever a head makes of them is as good as another.
    """
    target, group = draw_targets(generator, np.full(len(splits), size), EVEN, 20.0)
    streams = [np.eye(C)[draw_calls(generator, target, group, np.full(C, 0.6))]
               * generator.uniform(0.6, 1.4, (len(target), 1)) for _ in range(2)]
    return write_store(folder, generator, splits, streams, target, group)


def noise_store(folder: Path, generator: np.random.Generator, splits: Sequence[str], trials: int) -> Path:
    """A store of `trials` streams that tell nothing, in groups of 20."""
    target, group = draw_targets(generator, np.full(len(splits), 20), EVEN, 5.0)
    streams = [generator.standard_normal((len(target), 6)) for _ in range(trials)]
    return write_store(folder, generator, splits, streams, target, group)


def sweep_toml(path: Path, streams: Sequence[Sequence[str]], settings: dict, end: str = "") -> Path:
    values = [f"{name} = {value!r}".replace("'", '"') for name, value in settings.items() if name != "head"]
    path.write_text("\n".join([f"backbones = {[list(each) for each in streams]}", f"heads = ['{settings['head']}']",
                               "[settings]", *values, end]))
    return path


def compare_equal_heads(folder: Path, draw: int, groups: int, size: int) -> dict:
    """The interval of the difference of two equal heads by each verb, on `groups` test groups, in a fresh folder."""
    generator, quick, test = np.random.default_rng(draw), QUICK | {"seed": draw}, ["test"] * groups
    store = equal_store(folder / "own", generator, ["train"] * groups + ["val"] * (groups // 2) + test, size)
    whole, other = (equal_store(folder / name, generator, test, size) for name in ("whole", "other"))
    made = {name: fuse([store], resolve(changes=quick | {"backbones": backbones}), out=folder / name)
            for name, backbones in {"a": STREAMS[:1], "b": STREAMS[1:], "both": STREAMS}.items()}
    runs, both, crossed = [folder / "a", folder / "b"], read_run(folder / "both"), quick | {"folds": 2}
    ablation = sweep_toml(folder / "a.toml", [STREAMS], crossed | {"late": "mean"}, '[ablation]\nhead = ["late"]')
    analysis.MIN_POINTS = 10**9  # no map of the samples: it takes a second
    a, b = (twofold.Store(whole).features(backbones=[name]).train(**crossed) for name in STREAMS)
    return {
        "fuse: fusion against the best single": made["both"].comparison.interval,
        "sweep: row of an ablation": sweep(
            [whole], ablation, out=folder / "t", jobs=1).ablated[1]["against_no_change"]["interval"],
        "evaluate A B, on the store of training": evaluate_all(runs, store).comparison.interval,
        "evaluate A B, on another store": evaluate_all(runs, other).comparison.interval,
        "report A B, without a store": analysis.compare_with_first([read_run(run) for run in runs])[0]["interval"],
        "report --store, a stream left out": analysis.analyse_on_store(both, store).record["streams"][0][
            "without_interval"],
        "Python, a.compare(b)": a.compare(b).interval,
    }


def null_rates(draws: int, groups: int = 20, size: int = 20) -> dict[str, float]:
    """Of each verb, the share of draws in which two equal heads are called different."""
    called: dict[str, list[bool]] = defaultdict(list)
    for draw in range(draws):
        with tempfile.TemporaryDirectory() as folder:
            for name, ends in compare_equal_heads(Path(folder), draw, groups, size).items():
                called[name].append(bool(ends) and not ends[0] <= 0 <= ends[1])
    return {name: float(np.mean(each)) for name, each in called.items()}


def sweep_gains(draws: int, trials: int = 16, groups: int = 20) -> dict[str, np.ndarray]:
    """By how much (draws,) the figures of a sweep's winner exceed what it is worth, where all trials are noise."""
    gains: dict[str, list[float]] = defaultdict(list)
    streams = [(f"timm:s{number}",) for number in range(trials)]
    for draw in range(draws):
        generator, test = np.random.default_rng(draw), ["test"] * groups
        with tempfile.TemporaryDirectory() as name:
            folder, quick = Path(name), QUICK | {"seed": draw, "epochs": 3, "batch_size": 256}
            own = noise_store(folder / "own", generator, ["train"] * groups + ["val"] * groups + test, trials)
            whole, other = (noise_store(folder / name, generator, test, trials) for name in ("whole", "other"))
            chosen = sweep([own], sweep_toml(folder / "a.toml", streams, quick), out=folder / "a", jobs=1).best
            config = sweep_toml(folder / "b.toml", streams, quick | {"folds": 3})
            crossed = sweep([whole], config, out=folder / "b", jobs=1)
            new = evaluate_all([folder / "a/best"], other).each[0].figures.score
            worth = float(np.mean([trial.scored["macro_f1"] for trial in crossed.trials]))
            figures = [made.figures[-1].score for made in (chosen, crossed.best)]
            gains["by splits: the winner on test, over new samples"].append(figures[0] - new)
            gains["by folds: the figure called honest, over the mean trial"].append(crossed.nested - worth)
            gains["by folds: the winner's own figure, over the mean trial"].append(figures[1] - worth)
    return {name: np.array(each) for name, each in gains.items()}


def draw_two(generator: np.random.Generator, groups: int, shares: np.ndarray, right: np.ndarray, size: int,
             spread: float) -> tuple[np.ndarray, ...]:
    """Targets (n,), the predictions of two equal heads that agree on half of the samples and more, and groups."""
    sizes = generator.geometric(1 / size, groups) if size > 1 else np.ones(groups, int)
    target, group = draw_targets(generator, sizes, shares, spread)
    a, other = (draw_calls(generator, target, group, right) for _ in range(2))
    return target, a, np.where(generator.random(len(target)) < 0.5, a, other), group


def coverage(draws: int) -> Iterator[tuple[str, int, list[float]]]:
    """Population, groups, and the shares of 95 % intervals that contain the true accuracy, the true macro-F1, and the
    difference of nought in macro-F1 between two equal heads."""
    for name, (*population, counts) in POPULATIONS.items():
        target, calls, *_ = draw_two(np.random.default_rng(10**6), 10**6 // population[2], *population)
        truth = compute_scores(target, calls, C)
        for groups in counts:
            covered = np.zeros((draws, 3))
            for seed in range(draws):
                target, a, b, group = draw_two(np.random.default_rng(seed), groups, *population)
                found = [interval(metric, target, a, group, classes=C, seed=seed) for metric in (ACCURACY, SCORE)]
                found.append(compare(target, a, b, group, classes=C, seed=seed).interval)
                covered[seed] = [ends[0] <= value <= ends[1] if ends else np.nan for ends, value in
                                 zip(found, (truth.accuracy, truth.score, 0), strict=True)]
            yield name, groups, np.nanmean(covered, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("null", "sweep", "coverage"))
    parser.add_argument("--draws", type=int, default=400)
    which, draws = vars(parser.parse_args()).values()
    for name, rate in null_rates(draws).items() if which == "null" else ():
        print(f"{name:45} {100 * rate:5.1f} % ± {100 * (rate * (1 - rate) / draws) ** 0.5:.1f}")
    for name, each in sweep_gains(draws).items() if which == "sweep" else ():
        print(f"{name:65} {100 * each.mean():+.2f} ± {100 * each.std() / draws ** 0.5:.2f} points")
    for name, groups, shares in coverage(draws) if which == "coverage" else ():
        print(f"{name:28} {groups:4} groups: accuracy, macro-F1, difference "
              + ", ".join(f"{100 * share:.1f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()

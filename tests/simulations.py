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
from twofold.fuse.sweep import Trial, nested_score, sweep

C = len(CLASSES)
EVEN = np.full(C, 1 / C)
RARE = np.array([0.361, 0.243, 0.03, 0.006, 0.153, 0.08, 0.127])  #: as in FER+'s compounds
RIGHT = np.array([0.7, 0.6, 0.35, 0.3, 0.5, 0.4, 0.7])
QUICK = {"head": "linear", "epochs": 16, "lr": 0.15, "warmup": 0, "seeds": 1, "batch_size": 512, "stream_dropout": 0.0,
         "balanced_sampling": 0.0}
STREAMS = "timm:s0", "timm:s1"
#: shares of the classes, chance of each to be right, mean size of a group, spread of classes among groups, groups
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


def draw_calls(generator: np.random.Generator, target: np.ndarray, group: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) predictions that are right with chance (C,) `right`; some groups of several samples are easier."""
    ease = generator.normal(0, 0.12, group.max() + 1)[group] if group.max() + 1 < len(group) else 0
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
    """Two streams that each show a drawn prediction, right in 60 %, plainly enough that every head follows it. Where
    the two differ each is as likely to be right, so that whatever a head makes of both is as good as any other."""
    target, group = draw_targets(generator, np.full(len(splits), size), EVEN, 20.0)
    streams = [np.eye(C)[draw_calls(generator, target, group, np.full(C, 0.6))]
               * generator.uniform(0.9, 1.1, (len(target), 1)) for _ in range(2)]
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
    """By how much (draws,) the figures of a sweep with folds exceed the mean trial's, where all trials are noise."""
    gains: dict[str, list[float]] = defaultdict(list)
    streams = [(f"timm:s{number}",) for number in range(trials)]
    for draw in range(draws):
        generator, quick = np.random.default_rng(draw), QUICK | {"seed": draw, "epochs": 3, "folds": 3}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            target, group = draw_targets(generator, np.full(groups, 20), EVEN, 5.0)
            noise = generator.standard_normal((trials, len(target), 6))
            store = write_store(folder / "store", generator, ["test"] * groups, noise, target, group)
            made = sweep([store], sweep_toml(folder / "a.toml", streams, quick), out=folder / "a", jobs=1)
            worth = float(np.mean([trial.scored["macro_f1"] for trial in made.trials]))
            gains["trained: the figure called honest"].append(made.nested - worth)
            gains["trained: the winner's own figure"].append(made.best.figures[-1].score - worth)
    return {name: np.array(each) for name, each in gains.items()}


def choice_gains(draws: int, trials: int = 16) -> dict[str, np.ndarray]:
    """As `sweep_gains`, of drawn trials that predict a sample alike whether it validates or tests: the worst case."""
    gains: dict[str, list[float]] = defaultdict(list)
    for draw in range(draws):
        generator, group, made, worth = np.random.default_rng(draw), np.repeat(np.arange(20), 20), [], []
        fold, target = np.repeat(generator.permutation(20) % 5, 20), generator.integers(0, C, 400)
        for number in range(trials):
            calls, scored = generator.integers(0, C, 400), {"classes": C, "val_scores": []}
            for k in range(5):
                val = np.isin(group, generator.choice(np.unique(group[fold != k]), 3, replace=False))
                scored["val_scores"].append(compute_scores(target[val], calls[val], C).score)
            samples = {"truth": target, "output": np.eye(C)[calls], "fold": fold}
            made.append(Trial(str(number), {"folds": 5}, np.mean(scored["val_scores"]), 0.0, "", scored, samples))
            worth.append(compute_scores(target, calls, C).score)
        gains["drawn: the figure called honest"].append(nested_score(made) - np.mean(worth))
        gains["drawn: the winner's own figure"].append(worth[np.argmax([each.score for each in made])] - np.mean(worth))
    return {name: np.array(each) for name, each in gains.items()}


def draw_two(generator: np.random.Generator, groups: int, shares: np.ndarray, right: np.ndarray, size: int,
             spread: float) -> tuple[np.ndarray, ...]:
    """Targets (n,), the predictions of two equal heads that agree on half of the samples and more, and groups."""
    sizes = np.full(groups, size) if groups == 10 else generator.geometric(1 / size, groups)  # ten are of equal size
    target, group = draw_targets(generator, sizes, shares, spread)
    a, other = (draw_calls(generator, target, group, right) for _ in range(2))
    return target, a, np.where(generator.random(len(target)) < 0.5, a, other), group


def coverage(draws: int) -> Iterator[tuple[str, int, list[float]]]:
    """Shares of 95 % intervals that contain the true accuracy, macro-F1, and difference of nought of equal heads."""
    for name, (*population, counts) in POPULATIONS.items():
        target, calls, *_ = draw_two(np.random.default_rng(10**6), 10**6 // population[2], *population)
        truth = compute_scores(target, calls, C)
        for groups in counts:
            covered = np.zeros((draws, 3))
            for seed in range(draws):
                target, a, b, group = draw_two(np.random.default_rng(seed), groups, *population)
                a, b = np.eye(C)[a], np.eye(C)[b]
                found = [interval(metric, target, a, group, seed=seed) for metric in (ACCURACY, SCORE)]
                found.append(compare(SCORE, target, a, b, group, seed=seed).interval)
                covered[seed] = [ends[0] <= value <= ends[1] if ends else np.nan for ends, value in
                                 zip(found, (truth.accuracy, truth.score, 0), strict=True)]
            yield name, groups, np.nanmean(covered, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("null", "sweep", "coverage"))
    parser.add_argument("--draws", type=int, default=400)
    which, draws = vars(parser.parse_args()).values()
    for name, rate in null_rates(draws).items() if which == "null" else ():
        print(f"{name:45} {100 * rate:5.1f} % ± {100 * (rate * (1 - rate) / draws) ** 0.5:.1f}")
    for name, each in (sweep_gains(draws // 10) | choice_gains(draws)).items() if which == "sweep" else ():
        print(f"{name:35} {100 * each.mean():+.2f} ± {100 * each.std() / len(each) ** 0.5:.2f} points")
    for name, groups, shares in coverage(draws) if which == "coverage" else ():
        print(f"{name:28} {groups:4}: accuracy, F1, difference", *(f"{100 * each:.1f}" for each in shares), flush=True)


if __name__ == "__main__":
    main()

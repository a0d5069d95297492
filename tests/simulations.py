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
import pandas as pd

import twofold
from tests.fuse.conftest import CLASSES, recipe
from twofold.cache.feature_writer import write_feature_file
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate_all
from twofold.fuse.fuse import fuse
from twofold.fuse.metrics.scores import ACCURACY, SCORE, accuracy, compute_scores, confusion_matrix, macro_f1
from twofold.fuse.metrics.statistics import Interval, compare, interval
from twofold.fuse.report import analysis
from twofold.fuse.runs.read import read_run
from twofold.fuse.sweep import Trial, nested_score, sweep

C = len(CLASSES)
EVEN = np.full(C, 1 / C)
RARE = np.array([0.361, 0.243, 0.03, 0.006, 0.153, 0.08, 0.127])  #: as in FER+'s compounds
RIGHT = np.array([0.7, 0.6, 0.35, 0.3, 0.5, 0.4, 0.7])
QUICK = {"head": "linear", "epochs": 6, "lr": 0.05, "warmup": 0, "seeds": 1, "batch_size": 32, "stream_dropout": 0.0,
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
    """Write a store of features (n, D) of each stream, or (n, T, D) of clips of T frames; splits: of each group."""
    folder.mkdir(parents=True)
    clips = np.repeat(np.arange(len(target)), streams[0].shape[1] if streams[0].ndim > 2 else 1)
    keys = [f"{folder.name}/{clip:04d}-{row}.png" for row, clip in enumerate(clips)]
    pd.DataFrame([(key, splits[group[clip]], CLASSES[target[clip]], f"{folder.name} {group[clip]}", f"clip {clip}")
                  for key, clip in zip(keys, clips, strict=True)],
                 columns=["key", "split", "compound", "group", "clip"]).to_csv(folder / "manifest.csv", index=False)
    digests = [generator.bytes(32).hex() for _ in keys]
    for number, features in enumerate(streams):
        write_feature_file(folder / f"s{number}.original.h5", recipe=recipe(f"s{number}"), dim=features.shape[-1],
                           keys=keys, sha256=digests, failures={},
                           features=features.reshape(len(keys), -1).astype(np.float16))
    return folder


def sweep_toml(path: Path, streams: Sequence[Sequence[str]], settings: dict, end: str = "") -> Path:
    values = [f"{name} = {value!r}".replace("'", '"') for name, value in settings.items() if name != "head"]
    path.write_text("\n".join([f"backbones = {[list(each) for each in streams]}", f"heads = ['{settings['head']}']",
                               "[settings]", *values, end]))
    return path


class EqualHeads:
    """Test samples of `groups` groups, with two drawn predictions of equal worth, each right in 70 %.

    Heads that follow one of them each are equal. A head that sees both is none of them: where they differ it prefers
    some classes, and macro-F1 then is lower although as many samples are right.
    """

    def __init__(self, draw: int, *, groups: int, size: int, right: Sequence[Sequence[float]] = ()):
        """right: of each prediction the shares that are right in train, val and test; none: test samples alone."""
        self.generator = np.random.default_rng(draw)
        self.splits = ["train"] * groups + ["val"] * (groups // 2) if right else []
        self.splits += ["test"] * groups
        self.target, self.group = draw_targets(self.generator, np.full(len(self.splits), size), EVEN, 20.0)
        self.tested = np.array(self.splits)[self.group] == "test"
        split = np.unique(np.array(self.splits), return_inverse=True)[1][self.group]  # test, train, val
        self.shown = []
        for train, val, test in right or [(0.7, 0.7, 0.7)] * 2:
            calls = [draw_calls(self.generator, self.target, self.group, np.full(C, share))
                     for share in (test, train, val)]
            self.shown.append(np.stack(calls)[split if right else 0, np.arange(len(self.target))])

    def interval(self, first: int, second: int, *, seed: int) -> Interval | None:
        """Of the difference of two of the predictions on the test samples."""
        a, b = (np.eye(C)[self.shown[number][self.tested]] for number in (first, second))
        return compare(SCORE, self.target[self.tested], a, b, self.group[self.tested], seed=seed).interval

    def store(self, folder: Path, *, clips: bool = False) -> Path:
        """A stream for each prediction, plain enough that a head on it follows it; or clips of one stream, of which the
        largest values show the first one, the least the second. Where heads are trained on other samples than those
        of test, the second is so loud on test that a head on both follows it."""
        streams = [np.eye(C)[shown] * self.generator.uniform(0.9, 1.1, (len(shown), 1)) for shown in self.shown]
        streams[1][self.tested & ("train" in self.splits)] *= 8
        streams = [np.stack([streams[0], -streams[1]], axis=1)] if clips else streams
        return write_store(folder, self.generator, self.splits, streams, self.target, self.group)


def compare_equal_heads(folder: Path, draw: int, *, groups: int = 20, size: int = 20
                        ) -> dict[str, tuple[Interval | None, Interval | None]]:
    """The interval of the difference of two equal heads by each verb, and by `compare` of the drawn predictions that
    they follow, on `groups` test groups, in a fresh folder."""
    quick, crossed = QUICK | {"seed": draw}, QUICK | {"seed": draw, "folds": 4}
    own = EqualHeads(draw, groups=groups, size=size, right=[(0.7, 0.9, 0.7), (0.7, 0.7, 0.7)])
    other, whole, clips = (EqualHeads(10**6 * number + draw, groups=groups, size=size) for number in (1, 2, 3))
    store, others = own.store(folder / "own"), other.store(folder / "other")
    runs = [folder / "a", folder / "b"]
    for run, stream in zip(runs, STREAMS, strict=True):
        fuse([store], resolve(changes=quick | {"backbones": (stream,)}), out=run)
    fused = fuse([store], resolve(changes=quick), out=folder / "both")
    analysis.MIN_POINTS = 10**9  # no map of the samples: it takes a second
    left_out = analysis.analyse_on_store(read_run(folder / "both"), store)
    ablation = sweep_toml(folder / "a.toml", [STREAMS[:1]], crossed | {"unit": "clip", "pool": ["p100"]},
                          '[ablation]\npool = [["p0"]]')
    rows = sweep([clips.store(folder / "clips", clips=True)], ablation, out=folder / "t", jobs=1).ablated
    wholes = whole.store(folder / "whole")
    a, b = (twofold.Store(wholes).features(backbones=[name]).train(**crossed) for name in STREAMS)
    return {
        "fuse: fusion against the best single": (fused.comparison.interval, own.interval(1, 0, seed=draw)),
        "sweep: row of an ablation": (rows[1]["against_no_change"]["interval"], clips.interval(1, 0, seed=0)),
        "evaluate A B, on the store of training": (
            evaluate_all(runs, store).comparison.interval, own.interval(1, 0, seed=0)),
        "evaluate A B, on another store": (
            evaluate_all(runs, others).comparison.interval, other.interval(1, 0, seed=0)),
        "report A B, without a store": (
            analysis.compare_with_first([read_run(run) for run in runs])[0]["interval"], own.interval(1, 0, seed=0)),
        "report --store, a stream left out": (
            left_out.record["streams"][1]["without_interval"], own.interval(0, 1, seed=0)),
        "Python, a.compare(b)": (a.compare(b).interval, whole.interval(0, 1, seed=draw)),
    }


def agreement(draws: int, **sizes: int) -> dict[str, float]:
    """Of each verb, the share of draws in which its interval is, to the last bit, that of the drawn predictions."""
    alike: dict[str, list[bool]] = defaultdict(list)
    for draw in range(draws):
        with tempfile.TemporaryDirectory() as folder:
            for name, (ours, theirs) in compare_equal_heads(Path(folder), draw, **sizes).items():
                alike[name].append(ours is not None and tuple(ours) == theirs)
    return {name: float(np.mean(each)) for name, each in alike.items()}


def null_rate(draws: int, *, groups: int = 20, size: int = 20) -> float:
    """The share of draws in which two equal predictions are called different."""
    ends = [EqualHeads(draw, groups=groups, size=size).interval(0, 1, seed=0) for draw in range(draws)]
    return float(np.mean([low > 0 or high < 0 for low, high in filter(None, ends)]))


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


def coverage(draws: int, populations: Sequence[str] = tuple(POPULATIONS)) -> Iterator[tuple[str, int, list[float]]]:
    """Shares of 95 % intervals that contain the true accuracy, macro-F1, and difference of nought of equal heads.

    A class without samples counts 0 in macro-F1, in the truth as well: that is of the classes that a draw has.
    """
    for name in populations:
        *population, counts = POPULATIONS[name]
        target, calls, *_ = draw_two(np.random.default_rng(10**6), 10**6 // population[2], *population)
        whole = confusion_matrix(target, calls, C)
        for groups in counts:
            covered = np.zeros((draws, 3))
            for seed in range(draws):
                target, a, b, group = draw_two(np.random.default_rng(seed), groups, *population)
                truth = accuracy(whole), macro_f1(whole * np.isin(np.arange(C), target)[:, None]), 0
                a, b = np.eye(C)[a], np.eye(C)[b]
                found = [interval(metric, target, a, group, seed=seed) for metric in (ACCURACY, SCORE)]
                found.append(compare(SCORE, target, a, b, group, seed=seed).interval)
                covered[seed] = [ends[0] <= value <= ends[1] if ends else np.nan
                                 for ends, value in zip(found, truth, strict=True)]
            yield name, groups, np.nanmean(covered, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("null", "sweep", "coverage"))
    parser.add_argument("--draws", type=int, default=400)
    which, draws = vars(parser.parse_args()).values()
    if which == "null":
        for name, share in agreement(draws // 20).items():
            print(f"{name:45} the interval of the drawn predictions in {100 * share:.0f} % of {draws // 20} draws")
        rate = null_rate(10 * draws)
        print(f"these are called different in {100 * rate:.1f} % ± {100 * (rate * (1 - rate) / draws / 10) ** 0.5:.1f}")
    for name, each in (sweep_gains(draws // 10) | choice_gains(draws)).items() if which == "sweep" else ():
        print(f"{name:35} {100 * each.mean():+.2f} ± {100 * each.std() / len(each) ** 0.5:.2f} points")
    for name, groups, shares in coverage(draws) if which == "coverage" else ():
        print(f"{name:28} {groups:4}: accuracy, F1, difference", *(f"{100 * each:.1f}" for each in shares), flush=True)


if __name__ == "__main__":
    main()

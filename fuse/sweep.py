"""The verb `sweep`: many heads on many subsets, ordered by validation; or one setting changed at a time."""

import contextlib
import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from twofold.cache.errors import CacheError
from twofold.cache.store import Store
from twofold.data.utils.atomic import write_text
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.machine import usable_cores
from twofold.data.utils.options import read_toml
from twofold.data.utils.processes import map_unordered
from twofold.fuse.core.choice import chosen_task
from twofold.fuse.core.kinds import TASK_TYPES, Classification
from twofold.fuse.core.predictions import figures
from twofold.fuse.core.settings import HEAD_TYPES, Settings, settings_from
from twofold.fuse.core.streams import file_names
from twofold.fuse.experiment import cross_validate, prepare, subsets
from twofold.fuse.fuse import Fusion, fuse
from twofold.fuse.metrics.metric import Metric
from twofold.fuse.metrics.statistics import Comparison, compare
from twofold.fuse.runs.tensorboard import check_tensorboard, write_curves, write_trial
from twofold.fuse.runs.write import check_run_folder
from twofold.fuse.tables import columns, grouped_columns, say, say_difference, say_interval, say_spread

log = logging.getLogger(__name__)
ADVICE = ('keys are backbones = "all" or lists of names, heads, seeds, and the tables [settings] and [grid] or '
          "[ablation]")
TRIAL = re.compile(r"[0-9a-f]{10}\.json")
FIGURES = 4  #: version of what a trial is scored by
SHOWN = 20  #: lines of the leaderboard in the terminal
SAMPLES_DEPEND_ON = ("backbones", "views", "extra_views", "task", "labels", "target", "classes", "folds", "seed",
                     "val_fraction", "unit")
ASKS_FOR_TASK = ("task", "labels", "target", "classes", "head")


@dataclass(frozen=True)
class Trial:
    """One setting and its score on validation. error: why it failed, else empty.

    settings: as the TOML has them, so that one that makes no sense is a row as well. task: its kind. scored: with
    folds, figures over all of them; samples: of each truth and output, as the score wants them, group and fold.
    """

    name: str
    settings: dict
    score: float
    seconds: float
    error: str
    scored: dict | None = None
    samples: dict | None = None
    task: str = Classification.kind

    @property
    def metric(self) -> Metric:
        """What it is ranked by."""
        return TASK_TYPES[self.task.partition("+")[0]].score

    def cell(self, setting: str) -> str:
        """A setting as tables have it."""
        value = self.settings.get(setting, "")
        return " + ".join(value) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Sweep:
    """The leaderboard, best validation first, failed ones last, and the run of the best; or the rows of an ablation."""

    out: Path
    trials: list[Trial]
    reused: int
    best: Fusion | None
    varied: tuple[str, ...]
    seconds: float
    ablated: Sequence[dict] = ()  #: see `ablation_rows`
    nested: float | None = None  #: with folds, the score of the choice itself; see `nested_score`

    @property
    def metric(self) -> Metric:
        """What the trials are ranked by."""
        return self.trials[0].metric

    @property
    def exit_code(self) -> int:
        return 1 if any(trial.error for trial in self.trials) else 0

    def record(self) -> dict:
        return {"leaderboard": [{"trial": trial.name, "settings": trial.settings, "seconds": trial.seconds,
                                 f"val_{self.metric.key}": None if trial.error else trial.score, "error": trial.error}
                                for trial in self.trials],
                "reused": self.reused, "seconds": self.seconds, "best": self.best.record() if self.best else None,
                f"nested_{self.metric.key}": self.nested,
                "ablation": list(self.ablated)}

    def text(self) -> str:
        good, failed = ([trial for trial in self.trials if bool(trial.error) == bad] for bad in (False, True))
        rows = [("rank", "trial", *self.varied, f"val {self.metric.name}", "seconds")]
        rows += [(str(rank), trial.name, *map(trial.cell, self.varied), say(self.metric, trial.score),
                  f"{trial.seconds:.1f}") for rank, trial in enumerate(good[:SHOWN], 1)]
        more = [f"... {len(good) - SHOWN} more"] if len(good) > SHOWN else []
        lines = ablation_table(self.ablated) if self.ablated else [*columns(rows, left=len(rows[0]) - 2), *more]
        lines += [f"failed: {trial.name} ({', '.join(map(trial.cell, self.varied))}): {trial.error}"
                  for trial in failed]
        lines += ["", f"{len(self.trials)} trials ({self.reused} done before), {len(failed)} failed, "
                      f"{self.seconds:.1f} s; all in {self.out / 'leaderboard.csv'}"]
        if self.best:
            lines += ["", "the best by validation, scored once on test:", self.best.text()]
        if self.best and self.best.settings.folds:
            honest = "" if self.nested is None or not self.best.figures else (
                f" by {say_difference(self.metric, self.best.figures[-1].score - self.nested)}: chosen within each "
                f"fold it is {say(self.metric, self.nested)}")
            lines += ["", "the best was chosen by the validation of all folds, whose samples other folds test: its "
                          f"{self.metric.name} is optimistic{honest}"]
        return "\n".join(lines)


def sweep(stores: Sequence[Path], config: Path, *, out: Path, jobs: int = 0, overwrite: bool = False,
          tensorboard: Path | None = None) -> Sweep:
    """Run all trials of a TOML, continue where an earlier sweep into `out` was stopped, train the best as a run.

    jobs: processes at once, 0 = one a core. Each finished trial is a small file in out/trials, so a kill loses only
    what was under way; a failed trial is a row with its reason, and is tried again by the next sweep.
    tensorboard: a folder for settings and score of each trial, the learning curves of those trained now, and the best.
    overwrite: put this sweep in place of another, whose trials are removed; one that has more trials continues it.
    Raises InputError for a configuration that makes no sense, and for a folder that holds something else.
    """
    started = time.perf_counter()
    if tensorboard:
        check_tensorboard()
    wanted, varied, is_ablation = plan(config, stores)
    kind = _kind(wanted, stores)
    with_scores = is_ablation or any(settings.get("folds") for settings in wanted)
    names = _names(wanted, stores)
    _claim(out, names, overwrite)
    finished = {name: trial for name, settings in zip(names, wanted, strict=True)
                if (trial := _read(out, name, settings)) and not trial.error and (trial.scored or not with_scores)}
    todo = [(name, settings) for name, settings in zip(names, wanted, strict=True) if name not in finished]
    jobs = min(jobs or usable_cores(), max(len(todo), 1))
    calls = [(list(stores), out, name, settings, kind, with_scores, tensorboard) for name, settings in todo]
    # the processes share the cores; one job runs in this process, whose threads stay as they are
    results = map_unordered(_try, calls, workers=jobs, initializer=torch.set_num_threads,
                            initargs=(max(1, usable_cores() // jobs),))
    for number, trial in enumerate(results, 1):
        finished[trial.name] = trial
        log.info("%d/%d %s %s (%.1f s)", number, len(todo), trial.name, trial.error or say(trial.metric, trial.score),
                 trial.seconds)
    trials = sorted(finished.values(),
                    key=lambda trial: (bool(trial.error), 0 if trial.error else -trial.metric.rank(trial.score),
                                       trial.name))
    table = pd.DataFrame(
        [(rank, trial.name, *map(trial.cell, varied), "" if trial.error else f"{trial.score:.6f}",
          f"{trial.seconds:.2f}", trial.error) for rank, trial in enumerate(trials, 1)],
        columns=("rank", "trial", *varied, f"val_{trials[0].metric.key}", "seconds", "error"))
    write_text(out / "leaderboard.csv", table.to_csv(index=False, lineterminator="\n"))
    good = [trial for trial in trials if not trial.error]
    if tensorboard:
        for trial in good:
            write_trial(tensorboard / trial.name, trial.settings, f"val_{trial.metric.key}", trial.score)
    rows, best, nested = [], None, None
    if is_ablation:
        rows = ablation_rows(wanted[0], [finished[name] for name in names if not finished[name].error])
    elif good:
        nested = nested_score(good)
        best = fuse(stores, settings_from(good[0].settings), out=out / "best", overwrite=True,
                    tensorboard=tensorboard / "best" if tensorboard else None)
    return Sweep(out, trials, len(wanted) - len(todo), best, varied, time.perf_counter() - started, rows, nested)


def plan(config: Path, stores: Sequence[Path]) -> tuple[list[dict], tuple[str, ...], bool]:
    """What a TOML asks for: the settings of all trials, each once; what varies between them; whether it is an ablation
    of the first. Raises InputError for what makes no sense."""

    def refuse(reason: str) -> InputError:
        return InputError(f"{config}: {reason}")

    table = read_toml(config, "settings of a sweep")
    if unknown := [name for name in table if name not in ("backbones", "heads", "seeds", "settings", "grid",
                                                          "ablation")]:
        raise refuse(f"unknown {', '.join(unknown)}: {ADVICE}")
    grid, changes = table.get("grid", {}), table.get("ablation", {})
    base = table.get("settings", {}) | ({"seeds": table["seeds"]} if "seeds" in table else {})
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise refuse("[grid] needs a list of values for each setting")
    names = file_names(Store(stores[0]), next(iter(base.get("views", ["original"]))))
    lists = table.get("backbones", [names] if changes else "all")
    if lists == "all":
        lists = [list(subset) for size in range(1, len(names) + 1) for subset in itertools.combinations(names, size)]
    if not isinstance(lists, list) or not lists or not all(isinstance(names, list) and names for names in lists):
        raise refuse(f"backbones is {lists!r}: {ADVICE}")
    axes = {"backbones": lists, "head": table.get("heads", ["mlp"]), **grid}
    if not isinstance(axes["head"], list) or not axes["head"]:
        raise refuse("heads must be a list of names")
    if misnamed := [name for name in (*base, *grid, *changes) if name not in Settings.__dataclass_fields__]:
        raise refuse(f"there is no setting {', '.join(misnamed)}: {ADVICE}")
    trials = [base | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if not changes:
        heads = {name: HEAD_TYPES[name].learns_classes for trial in trials
                 if (name := trial.get("head", "mlp")) in HEAD_TYPES}
        if len(set(heads.values())) > 1:
            basic = ", ".join(name for name, learns in heads.items() if not learns)
            raise refuse(f"{basic} is validated on basic emotions, the other heads on the classes: their scores cannot "
                         "stand in one leaderboard; sweep them apart and compare the runs with `evaluate`")
        return [trial for number, trial in enumerate(trials) if trial not in trials[:number]], tuple(axes), False
    if len(trials) > 1:
        raise refuse("an ablation changes one base: give one subset of backbones, one head, no [grid]")
    for name, values in changes.items():
        if name in SAMPLES_DEPEND_ON:
            raise refuse(f"[ablation] cannot change {name}: all rows must score the same samples")
        if not isinstance(values, list) or not values:
            raise refuse(f"[ablation] needs a list of values for {name}")
    if base.get("folds", 0) < 2:
        raise refuse("an ablation is scored on folds: give folds = 5 in [settings]")
    usual = settings_from(trials[0])
    changed = [trials[0] | {name: value} for name, values in changes.items() for value in values
               if getattr(usual, name) != value]
    return trials + changed, tuple(changes), True


def _kind(wanted: Sequence[dict], stores: Sequence[Path]) -> str:
    """The kind of task of all trials. Raises InputError if they are not of one: their scores could not be ranked."""
    asked, kinds = {}, {}
    for settings in wanted:
        asked[json.dumps([settings.get(name) for name in ASKS_FOR_TASK])] = settings
    for settings in asked.values():
        with contextlib.suppress(InputError):  # a setting that makes no sense is a row with its reason
            task = chosen_task(settings_from(settings), [Store(path) for path in stores])
            kinds[task.kind] = settings.get("head", "mlp")
    if len(kinds) > 1:
        heads = ", ".join(f"{kind} of {head}" for kind, head in kinds.items())
        raise InputError(f"the trials do not have one task ({heads}): give task = [...] in [settings]")
    return next(iter(kinds), Classification.kind)


def _claim(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Make the folder of a sweep. Raises InputError if it is another sweep's, or something else."""
    trials = out / "trials"
    foreign = [path.name for path in trials.glob("*") if not TRIAL.fullmatch(path.name) and path.name[:1] != "."]
    if foreign:
        raise InputError(f"{trials} holds {foreign[0]!r}, which no sweep wrote: choose another --out")
    if out.exists() and not trials.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a sweep: choose another --out")
    others = [path for path in trials.glob("*.json") if TRIAL.fullmatch(path.name) and path.stem not in names]
    if others and not overwrite:
        raise InputError(f"{out} holds {len(others)} trials of another sweep (other settings, features or labels): "
                         "--overwrite replaces it, or choose another --out")
    check_run_folder(out / "best")
    trials.mkdir(parents=True, exist_ok=True)
    for path in others:
        path.unlink()


def _names(wanted: Sequence[dict], stores: Sequence[Path]) -> list[str]:
    """A name for each trial: other settings, classes, features or labels make another trial."""
    inputs = [[sorted(file.header_sha256 for file in Store(path).readable()[0]),
               hashlib.sha256(Store(path).manifest_path.read_bytes()).hexdigest()] for path in stores]
    names = []
    for settings in wanted:
        path = Path(settings.get("classes", ""))
        classes = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        made_of = json.dumps([settings, [FIGURES, classes, *inputs]], sort_keys=True)
        names.append(hashlib.sha256(made_of.encode()).hexdigest()[:10])
    return names


def _try(stores: list[Path], out: Path, name: str, record: dict, kind: str, with_scores: bool,
         tensorboard: Path | None) -> Trial:
    """Train one setting and keep its validation score; test samples are scored in ablations and folds only."""
    started, score, error, scored, samples = time.perf_counter(), float("nan"), "", None, None
    try:
        experiment = prepare(stores, settings_from(record))
        predictions, trained = cross_validate(experiment, subsets(experiment.features, experiment.settings)[-1][1])
        score = predictions.system.val_score
        if np.isnan(score):
            raise InputError("nothing is trained or validated: there is no score to rank it by")
        if with_scores:
            record_of = json.dumps(figures(predictions, seed=experiment.settings.seed).record())  # as it is read back
            scored = json.loads(record_of) | {"val_scores": [head.val_score for head in trained]}
            first = predictions.parts()[0][1]
            truth, output = first.task.compared(first.task.score, first)
            samples = {"truth": truth.tolist(), "output": output.tolist(), "fold": first.fold.tolist(),
                       "group": np.unique(first.group.astype(str), return_inverse=True)[1].tolist()}
        if tensorboard:
            write_curves(tensorboard / name, [each.history for each in trained])
    except (InputError, CacheError) as failure:
        error = str(failure)
    except Exception as failure:  # one bad setting must not end the night's sweep: it is a row with its reason
        error = f"{type(failure).__name__}: {first_line(failure)}"
    trial = Trial(name, record, score, time.perf_counter() - started, error, scored, samples, kind)
    write_text(out / "trials" / f"{name}.json", json.dumps(asdict(trial)) + "\n")
    return trial


def _read(out: Path, name: str, settings: dict) -> Trial | None:
    """A trial that an earlier sweep has finished; None if there is none that reads back."""
    try:
        trial = Trial(**json.loads((out / "trials" / f"{name}.json").read_text(encoding="utf-8")))
        return trial if trial.settings == settings else None
    except (OSError, ValueError, TypeError):
        return None


def nested_score(trials: Sequence[Trial]) -> float | None:
    """The score of choosing within each fold, by its own validation, the trial that predicts its test samples.

    One fold's validation samples are test samples of others, so the best trial's own figure is optimistic; this one
    is not. None without folds, or where trials do not share them.
    """
    shared = {json.dumps([trial.settings.get(name) for name in SAMPLES_DEPEND_ON[1:]]) for trial in trials}
    done = [(trial.scored, trial.samples) for trial in trials if trial.scored and trial.samples]
    if len(shared) != 1 or len(done) < len(trials):
        return None
    metric, targets, outputs = trials[0].metric, [], []
    for fold in range(len(done[0][0]["val_scores"])):
        _, samples = max(done, key=lambda trial: metric.rank(trial[0]["val_scores"][fold]))
        rows = np.array(samples["fold"]) == fold
        targets.append(np.array(samples["truth"])[rows])
        outputs.append(np.array(samples["output"])[rows])
    return metric.of(np.concatenate(targets), np.concatenate(outputs))


def ablation_rows(base: dict, trials: Sequence[Trial]) -> list[dict]:
    """The figures of the trials that worked, and `against_no_change`: each compared with that of the base."""
    unchanged = next((trial for trial in trials if trial.settings == base), None)
    rows = []
    for trial in trials:
        change = ", ".join(f"{name} = {value}" for name, value in trial.settings.items() if base.get(name) != value)
        comparison = None
        if change and unchanged and unchanged.samples and trial.scored and trial.samples:
            truth, group, ours = (np.array(trial.samples[name]) for name in ("truth", "group", "output"))
            theirs = np.array(unchanged.samples["output"])
            comparison = asdict(compare(trial.metric, truth, ours, theirs, group, seed=0))
        rows.append({"change": change or "no change", **(trial.scored or {}), f"val_{trial.metric.key}": trial.score,
                     "task": trial.task,
                     "samples": len(trial.samples["truth"]) if trial.samples else 0, "against_no_change": comparison})
    return rows


def ablation_table(rows: Sequence[dict]) -> list[str]:
    """One line per change, in points of a hundred."""
    task = TASK_TYPES[rows[0]["task"].partition("+")[0]]
    score, others = task.score, [metric for metric in task.metrics if metric is not task.score]
    lines: list[tuple[str, ...]] = [("change", *(metric.name for metric in others), score.name, "95 %", score.name,
                                     score.name, score.name, "95 %", "")]
    for row in rows:
        comparison = Comparison(**row["against_no_change"]) if row["against_no_change"] else None
        difference = ("", "", "") if comparison is None else (
            say_difference(score, comparison.difference), say_interval(score, comparison.interval, sign="+"),
            comparison.verdict)
        lines.append((row["change"], *(say(metric, row[metric.key]) for metric in others), say(score, row[score.key]),
                      say_interval(score, row[f"{score.key}_interval"]), say_spread(score, row[f"seeds_{score.key}"]),
                      say(score, row[f"val_{score.key}"]), *difference))
    groups = [("", 1), (rows[0]["figures_of"], 2 + len(others)), ("one seed, mean ± sd", 1), ("validation", 1),
              ("difference", 3)]
    return [f"{rows[0]['samples']} samples of all folds, {rows[0]['groups']} groups; intervals and paired differences "
            "by bootstrap of groups", "", *grouped_columns(lines, groups, left=1)]

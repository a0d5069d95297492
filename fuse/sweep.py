"""The verb `sweep`: many heads on many subsets, ordered by validation; or one setting changed at a time."""

import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from twofold.fuse.ablation import Row, Trial, ablation_rows, ablation_table, nested_macro_f1, score_folds, variations
from twofold.fuse.core.settings import HEAD_TYPES, Settings, settings_from
from twofold.fuse.experiment import prepare, subsets, train_singles, train_subset
from twofold.fuse.fuse import Fusion, fuse
from twofold.fuse.runs.tensorboard import check_tensorboard, write_curves, write_trial
from twofold.fuse.runs.write import check_run_folder
from twofold.fuse.tables import columns, percent

log = logging.getLogger(__name__)
KEYS = ("backbones", "heads", "seeds", "settings", "grid", "ablation")
ADVICE = ('keys are backbones = "all" or lists of names, heads, seeds, and the tables [settings] and [grid] or '
          "[ablation]")
TRIAL = re.compile(r"[0-9a-f]{10}\.json")
FIGURES = 3  #: version of what a trial is scored by
SHOWN = 20  #: lines of the leaderboard in the terminal


@dataclass(frozen=True)
class Plan:
    """The settings of all trials, each once; what varies between them; whether it is an ablation of the first."""

    trials: list[dict]
    varied: tuple[str, ...]
    ablation: bool


@dataclass(frozen=True)
class Sweep:
    """The leaderboard, best validation first, failed ones last, and the run of the best; or the rows of an ablation."""

    out: Path
    trials: list[Trial]
    reused: int
    best: Fusion | None
    varied: tuple[str, ...]
    seconds: float
    ablated: tuple[Row, ...] = ()
    nested: float | None = None  #: with folds, the macro-F1 of the choice itself; see `nested_macro_f1`

    @property
    def exit_code(self) -> int:
        return 1 if any(trial.error for trial in self.trials) else 0

    def record(self) -> dict:
        return {"leaderboard": [{"trial": trial.name, "settings": trial.settings, "seconds": trial.seconds,
                                 "val_macro_f1": None if trial.error else trial.score, "error": trial.error}
                                for trial in self.trials],
                "reused": self.reused, "seconds": self.seconds, "best": self.best.record() if self.best else None,
                "nested_macro_f1": self.nested,
                "ablation": [row.record() for row in self.ablated]}

    def text(self) -> str:
        rows = [("rank", "trial", *self.varied, "val macro-F1", "seconds")]
        rows += [(str(rank), trial.name, *(_cell(trial, name) for name in self.varied), percent(trial.score),
                  f"{trial.seconds:.1f}") for rank, trial in enumerate(self._good[:SHOWN], 1)]
        failed = [trial for trial in self.trials if trial.error]
        more = [f"... {len(self._good) - SHOWN} more"] if len(self._good) > SHOWN else []
        lines = ablation_table(self.ablated) if self.ablated else [*columns(rows, left=len(rows[0]) - 2), *more]
        lines += [f"failed: {trial.name} ({', '.join(_cell(trial, name) for name in self.varied)}): {trial.error}"
                  for trial in failed]
        lines += ["", f"{len(self.trials)} trials ({self.reused} done before), {len(failed)} failed, "
                      f"{self.seconds:.1f} s; all in {self.out / 'leaderboard.csv'}"]
        if self.best:
            lines += ["", "the best by validation, scored once on test:", self.best.text()]
        if self.best and self.best.settings.folds:
            lines += ["", "the best was chosen by the validation of all folds, whose samples other folds test: its "
                          "macro-F1 is optimistic" + self._optimism]
        return "\n".join(lines)

    @property
    def _optimism(self) -> str:
        if self.nested is None or not self.best or not self.best.figures:
            return ""
        gain = self.best.figures[-1].scores.macro_f1 - self.nested
        return f" by {100 * gain:+.2f} points: chosen within each fold it is {percent(self.nested)}"

    @property
    def _good(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.error]


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
    planned = plan(config, stores)
    wanted, varied = planned.trials, planned.varied
    if not planned.ablation:
        _check_scores(config, wanted)
    with_scores = planned.ablation or any(settings.get("folds") for settings in wanted)
    inputs = _inputs(stores)
    names = [_name(settings, [FIGURES, _classes(settings), *inputs]) for settings in wanted]
    _claim(out, names, overwrite)
    finished = {name: trial for name, settings in zip(names, wanted, strict=True)
                if (trial := _read(out, name, settings)) and not trial.error
                and (trial.scored or not with_scores)}
    todo = [(name, settings) for name, settings in zip(names, wanted, strict=True) if name not in finished]
    jobs = min(jobs or usable_cores(), max(len(todo), 1))
    calls = [(list(stores), out, name, settings, with_scores, tensorboard) for name, settings in todo]
    # the processes share the cores; one job runs in this process, whose threads stay as they are
    results = map_unordered(_try, calls, workers=jobs, initializer=torch.set_num_threads,
                            initargs=(max(1, usable_cores() // jobs),))
    for number, trial in enumerate(results, 1):
        finished[trial.name] = trial
        log.info("%d/%d %s %s (%.1f s)", number, len(todo), trial.name, trial.error or percent(trial.score),
                 trial.seconds)
    trials = sorted(finished.values(), key=lambda trial: (bool(trial.error), -trial.score, trial.name))
    write_text(out / "leaderboard.csv", _leaderboard(trials, varied))
    good = [trial for trial in trials if not trial.error]
    if tensorboard:
        for trial in good:
            write_trial(tensorboard / trial.name, trial.settings, trial.score)
    rows, best, nested = [], None, None
    if planned.ablation:
        done = [finished[name] for name in names if not finished[name].error]
        rows = ablation_rows(wanted[0], [(trial.settings, trial.scored or {}, trial.score) for trial in done])
    elif good:
        nested = nested_macro_f1(good)
        best = fuse(stores, settings_from(good[0].settings), out=out / "best", overwrite=True,
                    tensorboard=tensorboard / "best" if tensorboard else None)
    return Sweep(out, trials, len(wanted) - len(todo), best, varied, time.perf_counter() - started, tuple(rows), nested)


def _check_scores(config: Path, trials: Sequence[dict]) -> None:
    """Raise InputError for heads that are validated on different classes: their scores cannot be ranked."""
    heads = {name: HEAD_TYPES[name].learns_classes for trial in trials
             if (name := trial.get("head", "mlp")) in HEAD_TYPES}
    if len(set(heads.values())) > 1:
        basic = ", ".join(name for name, learns in heads.items() if not learns)
        raise InputError(f"{config}: {basic} is validated on basic emotions, the other heads on the classes: their "
                         "scores cannot stand in one leaderboard; sweep them apart and compare the runs with "
                         "`evaluate`")


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


def plan(config: Path, stores: Sequence[Path]) -> Plan:
    """What a TOML asks for. Raises InputError for what makes no sense."""
    table = read_toml(config, "settings of a sweep")
    unknown = [name for name in table if name not in KEYS]
    if unknown:
        raise InputError(f"{config}: unknown {', '.join(unknown)}: {ADVICE}")
    common = dict(table.get("settings", {}))
    if "seeds" in table:
        common["seeds"] = table["seeds"]
    grid = table.get("grid", {})
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise InputError(f"{config}: [grid] needs a list of values for each setting")
    changes = table.get("ablation", {})
    everything = [Store(stores[0]).backbones(next(iter(common.get("views", ["original"]))))]
    axes = {"backbones": everything if changes and "backbones" not in table else
            _subsets_of_backbones(table.get("backbones", "all"), stores, common, config),
            "head": table.get("heads", ["mlp"]), **grid}
    if not isinstance(axes["head"], list) or not axes["head"]:
        raise InputError(f"{config}: heads must be a list of names")
    misnamed = [name for name in (*common, *grid, *changes) if name not in Settings.__dataclass_fields__]
    if misnamed:
        raise InputError(f"{config}: there is no setting {', '.join(misnamed)}: {ADVICE}")
    trials = [common | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if changes and len(trials) > 1:
        raise InputError(f"{config}: an ablation changes one base: give one subset of backbones, one head, no [grid]")
    if changes:
        return Plan(variations(trials[0], changes, config), tuple(changes), True)
    once = [trial for number, trial in enumerate(trials) if trial not in trials[:number]]
    return Plan(once, tuple(axes), False)


def _subsets_of_backbones(word: object, stores: Sequence[Path], common: dict, config: Path) -> list[list[str]]:
    """The subsets of backbones: all 2^k - 1 by the word `all`, or as listed."""
    if word == "all":
        names = Store(stores[0]).backbones(next(iter(common.get("views", ["original"]))))
        return [list(subset) for size in range(1, len(names) + 1) for subset in itertools.combinations(names, size)]
    if isinstance(word, list) and word and all(isinstance(subset, list) and subset for subset in word):
        return word
    raise InputError(f"{config}: backbones is {word!r}: {ADVICE}")


def _try(stores: list[Path], out: Path, name: str, record: dict, with_scores: bool, tensorboard: Path | None) -> Trial:
    """Train one setting and keep its validation score; test samples are predicted in ablations and folds only."""
    started, scored = time.perf_counter(), None
    try:
        settings = settings_from(record)
        experiment = prepare(stores, settings)
        everything = subsets(experiment.features, experiment.settings)[-1]
        trained = train_subset(experiment, everything, train_singles(experiment))
        score, error = float(np.mean([each.val_score for each in trained])), ""
        scored = score_folds(experiment, trained) if with_scores else None
        if np.isnan(score):
            raise InputError("nothing is trained or validated: there is no score to rank it by")
        if tensorboard:
            write_curves(tensorboard / name, [each.history for each in trained])
    except (InputError, CacheError) as failure:
        score, error = float("nan"), str(failure)
    except Exception as failure:  # one bad setting must not end the night's sweep: it is a row with its reason
        score, error = float("nan"), f"{type(failure).__name__}: {first_line(failure)}"
    trial = Trial(name, record, score, time.perf_counter() - started, error, scored)
    write_text(out / "trials" / f"{name}.json", json.dumps({
        "settings": record, "val_macro_f1": None if error else score, "error": error,
        "seconds": trial.seconds, "figures": scored}) + "\n")
    return trial


def _read(out: Path, name: str, settings: dict) -> Trial | None:
    """A trial that an earlier sweep has finished; None if there is none that reads back."""
    try:
        record = json.loads((out / "trials" / f"{name}.json").read_text(encoding="utf-8"))
        if record["settings"] != settings:
            return None
        score = float("nan" if record["error"] else record["val_macro_f1"])
        return Trial(name, settings, score, record["seconds"], record["error"], record.get("figures"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _classes(settings: dict) -> str:
    """The digest of a file of classes: a trial on other classes is another trial."""
    path = Path(settings.get("classes", ""))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _inputs(stores: Sequence[Path]) -> list:
    """What identifies the features and labels: a trial on others is another trial."""
    return [[sorted(file.header_sha256 for file in Store(path).readable()[0]),
             hashlib.sha256(Store(path).manifest_path.read_bytes()).hexdigest()] for path in stores]


def _name(settings: dict, inputs: list) -> str:
    return hashlib.sha256(json.dumps([settings, inputs], sort_keys=True).encode()).hexdigest()[:10]


def _cell(trial: Trial, name: str) -> str:
    value = trial.settings.get(name, "")
    return " + ".join(value) if isinstance(value, list) else str(value)


def _leaderboard(trials: Sequence[Trial], varied: tuple[str, ...]) -> str:
    header = ("rank", "trial", *varied, "val_macro_f1", "seconds", "error")
    return pd.DataFrame([
        (str(rank), trial.name, *(_cell(trial, name) for name in varied),
         "" if trial.error else f"{trial.score:.6f}", f"{trial.seconds:.2f}", trial.error)
        for rank, trial in enumerate(trials, 1)], columns=header).to_csv(index=False, lineterminator="\n")

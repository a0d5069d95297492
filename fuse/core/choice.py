"""The task that settings and manifests ask for."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twofold.cache.store import Store
from twofold.data.labels import (
    FROM_DATA,
    RESERVED_NAMES,
    Taxonomy,
    load_taxonomy,
    taxonomy_from_labels,
    taxonomy_from_record,
)
from twofold.data.manifest import COLUMNS, read_manifest
from twofold.data.targets import AFFECT, default_task, target_columns
from twofold.data.utils.csv_files import check_columns
from twofold.data.utils.errors import InputError
from twofold.fuse.core.blends import distribution_task
from twofold.fuse.core.features import Features
from twofold.fuse.core.kinds import TASK_TYPES, Classification, Distribution
from twofold.fuse.core.settings import DEFAULT_POOL, HEAD_TYPES, SEQUENCE, VERY_MANY, Settings, run_file
from twofold.fuse.core.several import Several
from twofold.fuse.core.task import Task

log = logging.getLogger(__name__)
DEFAULT_CLASSES = {"": "cexpr7", "compound": "cexpr7", "basic": "basic7"}  #: of a target, where none are asked for


def chosen_classes(settings: Settings, stores: Sequence[Store]) -> Taxonomy:
    """The taxonomy that the settings ask for, `from-data` from the labels of these stores.

    Raises InputError for a target that is not that of the classes, or a column that no manifest has.
    """
    def labels(target: str) -> list[str]:
        tables = [read_manifest(store.manifest_path).table for store in stores]
        if not any(target in table.columns for table in tables):
            raise InputError(f"{stores[0].manifest_path}: no column {target!r} of labels; it has "
                             f"{', '.join(tables[0].columns)}")
        return [label for table in tables if target in table.columns for label in table[target].unique()]

    name = settings.classes or DEFAULT_CLASSES.get(settings.target, FROM_DATA)
    if name == FROM_DATA:
        target = settings.target or "compound"
        return taxonomy_from_labels(labels(target), target=target)
    if name.endswith(".json"):
        path = Path(name)
        try:
            classes = taxonomy_from_record(json.loads(run_file(path.parent, path.name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no record of a run's classes: {error}") from None
    else:
        classes = load_taxonomy(name, target=settings.target)
    if settings.target not in ("", classes.target):
        raise InputError(f"--classes {classes.name} are {classes.target} expressions: use --target {classes.target}"
                         if classes.target in DEFAULT_CLASSES else f"--classes {classes.name} stand in the column "
                         f"{classes.target!r}: leave out --target {settings.target}")
    if classes.target not in DEFAULT_CLASSES:
        labels(classes.target)
    return classes


def check_pairs(classes: Taxonomy) -> None:
    """Raise InputError unless each class is made of two basic emotions, as zero-shot needs it."""
    unpaired = [name for name, basics in zip(classes.classes, classes.basics, strict=True) if len(basics) != 2]
    if unpaired:
        raise InputError(f"zero-shot makes classes of two basic emotions, and nothing says which two make "
                         f"{', '.join(unpaired)}: choose compound --classes, or name them under [pairs] in a FILE.toml")


def chosen_task(settings: Settings, stores: Sequence[Store]) -> Task:
    """The task that the settings ask for, or that follows from the labels: a distribution where the first store's
    manifest has soft labels of all the classes and the head can learn them, else a classification.

    Raises InputError for what is contradictory, or columns that are not there.
    """
    if settings.pool != DEFAULT_POOL and not settings.unit:
        raise InputError("--pool goes with --unit COLUMN, which says what rows are one sample")
    if len(settings.task) > 1:
        return _several(settings, stores)
    kind = settings.task[0] if settings.task else ""
    if settings.task_weights:
        raise InputError("--task-weights goes with several tasks")
    if kind in TASK_TYPES and not issubclass(TASK_TYPES[kind], Classification):
        if settings.classes or settings.target:
            raise InputError(f"--classes and --target are of classes: leave them out with --task {kind}")
        return TASK_TYPES[kind](_label_columns(kind, settings, stores[0]))
    if settings.labels:
        raise InputError("--labels goes with --task multilabel or regression")
    taxonomy = chosen_classes(settings, stores)
    if not kind:
        kind = default_task(read_manifest(stores[0].manifest_path), taxonomy.classes)
        kind = kind if kind in HEAD_TYPES[settings.head].tasks else Classification.kind
        if kind != Classification.kind:
            log.info("task %s: the manifest has soft labels of all classes (--task classification: hard ones)", kind)
    return distribution_task(taxonomy, teach=settings.teach) if kind == Distribution.kind else Classification(taxonomy)


def _several(settings: Settings, stores: Sequence[Store]) -> Several:
    """The tasks of the settings side by side, that of classes first. Of --labels, valence and arousal are numbers."""
    kinds = [kind for kind in TASK_TYPES if kind in settings.task]
    if len(kinds) < len(settings.task) or {Classification.kind, Distribution.kind} <= set(kinds):
        raise InputError(f"--task {','.join(settings.task)}: each once, and classification or distribution")
    try:
        weights = [float(text) for text in settings.task_weights] or [1.0] * len(kinds)
        if len(weights) != len(kinds) or not all(0 < weight < VERY_MANY for weight in weights):
            raise ValueError
    except ValueError:
        raise InputError(f"--task-weights {','.join(settings.task_weights)}: a number above 0 is needed for each of "
                         f"the {len(kinds)} tasks") from None
    weight_of = dict(zip(settings.task, weights, strict=True))
    own = {"multilabel": tuple(name for name in settings.labels if name not in AFFECT or "regression" not in kinds),
           "regression": tuple(name for name in settings.labels if name in AFFECT or "multilabel" not in kinds)}
    single = [replace(settings, task=(kind,), task_weights=(), labels=own.get(kind, ()), **(
        {"classes": "", "target": ""} if kind in own else {})) for kind in kinds]
    tasks = tuple(chosen_task(each, stores) for each in single)
    task = Several(tasks[0].taxonomy, each=tasks, weights=tuple(weight_of[kind] for kind in kinds))
    if len(set(task.outputs)) < len(task.outputs):
        raise InputError(f"--task {','.join(settings.task)}: two of the columns {', '.join(task.outputs)} have the "
                         "same name")
    return task


def _label_columns(kind: str, settings: Settings, store: Store) -> Taxonomy:
    """The columns of labels or numbers. Raises InputError for one that is not there, or cannot be one of our tables."""
    manifest, source = read_manifest(store.manifest_path), str(store.manifest_path)
    names = settings.labels or target_columns(manifest, kind)
    check_columns(manifest.table, names, source)
    for name in names:
        if names.count(name) > 1 or RESERVED_NAMES.fullmatch(name) or name in COLUMNS:
            raise InputError(f"--labels {name}: " + ("it is named twice" if names.count(name) > 1 else
                             "it is the name of a column of our tables: rename it in the manifest"))
    return label_taxonomy(kind, names)


def label_taxonomy(kind: str, names: Sequence[str]) -> Taxonomy:
    """Columns of labels or numbers in the place of classes."""
    return Taxonomy(kind, kind, tuple(names), tuple(range(len(names))), pairs=((),) * len(names))


def check_head(task: Task, head: str, features: Features) -> None:
    """Raise InputError for a head that cannot do the task, or not with such samples."""
    kinds = {part.task.kind for part in task.parts}
    if not kinds <= set(HEAD_TYPES[head].tasks):
        able = ", ".join(name for name, kind in HEAD_TYPES.items() if kinds <= set(kind.tasks))
        raise InputError(f"head {head} cannot do {task.kind}: {able} can")
    several = any(len(stream.pieces) > 1 for stream in features.streams)
    have = "frames" if features.most_frames else "pieces" if several else "row"
    if have not in HEAD_TYPES[head].inputs:
        able = ", ".join(name for name, kind in HEAD_TYPES.items() if have in kind.inputs)
        needs = {"pieces": "a stream of several pieces (`extract --backbones NAME?layers=all`)",
                 "frames": f"the frames of clips (--unit COLUMN --pool {SEQUENCE})"}
        raise InputError(f"head {head} cannot read the frames of a sequence: {able} can; or --pool statistics of them"
                         if have == "frames" else f"head {head} needs "
                         + ", or ".join(needs[name] for name in HEAD_TYPES[head].inputs))


def recorded_task(layout: str, outputs: Sequence[str], record: dict) -> Task:
    """The task of a run's record, which is untrusted but for the kinds of its layout. Raises InputError."""
    if "+" in layout:
        tasks, start = [], 0
        for kind, _, columns in (part.partition(":") for part in layout.split("+")):
            tasks.append(recorded_task(kind, outputs[start:start + int(columns)], record))
            start += int(columns)
        return Several(tasks[0].taxonomy, each=tuple(tasks), weights=(1.0,) * len(tasks))
    if not issubclass(TASK_TYPES[layout], Classification):
        return TASK_TYPES[layout](label_taxonomy(layout, outputs))
    taxonomy = taxonomy_from_record({"taxonomy": record})
    return distribution_task(taxonomy) if layout == Distribution.kind else Classification(taxonomy)

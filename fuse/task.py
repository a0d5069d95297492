"""What is predicted: classes built in, of a file, from the labels of a store, or those of an earlier run."""

import json
from collections.abc import Sequence
from pathlib import Path

from twofold.cache.store import Store
from twofold.data.labels import FROM_DATA, Taxonomy, load_taxonomy, taxonomy_from_labels, taxonomy_from_record
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.fuse.settings import Settings

USUAL = {"": "cexpr7", "compound": "cexpr7", "basic": "basic7"}  #: classes of a target, where none are asked for


def chosen_classes(settings: Settings, stores: Sequence[Store]) -> Taxonomy:
    """The taxonomy that the settings ask for, `from-data` from the labels of these stores.

    Raises InputError for a target that is not that of the classes, or a column that no manifest has.
    """
    name = settings.classes or USUAL.get(settings.target, FROM_DATA)
    if name == FROM_DATA:
        target = settings.target or "compound"
        return taxonomy_from_labels(_labels(stores, target), target=target)
    classes = _of_run(Path(name)) if name.endswith(".json") else load_taxonomy(name)
    if settings.target not in ("", classes.target):
        raise InputError(f"--classes {classes.name} are {classes.target} expressions: use --target {classes.target}"
                         if classes.target in USUAL else f"--classes {classes.name} stand in the column "
                         f"{classes.target!r}: leave out --target {settings.target}")
    if classes.target not in USUAL:
        _labels(stores, classes.target)
    return classes


def check_pairs(classes: Taxonomy) -> None:
    """Raises InputError unless each class is made of two basic emotions, as zero-shot needs it."""
    alone = [name for name, basics in zip(classes.classes, classes.basics, strict=True) if len(basics) != 2]
    if alone:
        raise InputError(f"zero-shot makes classes of two basic emotions, and nobody says which two make "
                         f"{', '.join(alone)}: choose compound --classes, or name them under [pairs] in a FILE.toml")


def _labels(stores: Sequence[Store], target: str) -> list[str]:
    """The labels in a column of the stores' manifests; raises InputError if none has it."""
    tables = [read_manifest(store.manifest_path).table for store in stores]
    if not any(target in table.columns for table in tables):
        raise InputError(f"{stores[0].manifest_path}: no column {target!r} of labels; it has "
                         f"{', '.join(tables[0].columns)}")
    return [label for table in tables if target in table.columns for label in table[target].unique()]


def _of_run(path: Path) -> Taxonomy:
    try:
        return taxonomy_from_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no record of a run's classes: {error}") from None

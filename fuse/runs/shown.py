"""What a report or a card shows of a run, checked before anything of it is drawn: it may come from a stranger."""

import json
from pathlib import Path
from typing import Any

from twofold.data.errors import InputError
from twofold.fuse.runs.received import MOST_FOLDS, MOST_JSON, MOST_STREAMS, classes_of
from twofold.fuse.runs.values import items, number, refused, short, table, text

MOST_SYSTEMS, MOST_FACES, MOST_NOTES = 10_000, 10**9, 10_000
SHARES = ("accuracy", "macro_f1", "uar")
INTERVALS = ("accuracy_interval", "macro_f1_interval")
#: of a system, by the names of all versions: one of each has to be there
ERRORS = (("calibration_error", "ece_calibrated"), ("calibration_error_before_temperature", "ece"))


def check_shown(record: dict[str, Any], path: Path) -> None:
    """Raises InputError for a record that says less of its streams and faces than is shown, or other things."""
    for k, stream in enumerate(items(record.get("streams"), path, "streams", MOST_STREAMS)):
        for name in ("backbone", "view"):
            text(table(stream, path, f"streams[{k}]").get(name), path, f"streams[{k}].{name}")
        text(table(stream.get("recipe"), path, f"streams[{k}].recipe").get("weights"), path, f"streams[{k}].weights")
        _count(stream.get("dim"), path, f"streams[{k}].dim")
    text(table(record.get("head"), path, "head").get("kind"), path, "head.kind")
    for k, side in enumerate(items(record.get("faces"), path, "faces", MOST_FOLDS)):
        for name in ("train", "val", "test"):
            _count(table(side, path, f"faces[{k}]").get(name), path, f"faces[{k}].{name}")
    number(record.get("seconds"), path, "seconds", lambda value: 0 <= value < 1e12)
    for name in ("classes_name", "created"):
        text(record.get(name), path, name)
    notes = record.get("notes")
    if not isinstance(notes, list) or len(notes) > MOST_NOTES or not all(isinstance(note, str) for note in notes):
        raise refused(path, "notes", "a list of texts is needed")


def read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json of a run. Raises InputError for figures that are none, FileNotFoundError if there is no file."""
    if path.stat().st_size > MOST_JSON:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for the figures of a run")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the run's figures do not read back ({short(error)}): train it again") from None
    metrics = table(metrics, path, "the run's figures")
    classes = classes_of(metrics.get("classes"), path)
    systems = metrics.get("systems")
    if not isinstance(systems, list) or len(systems) > MOST_SYSTEMS:
        raise refused(path, "systems", f"a list of at most {MOST_SYSTEMS} is needed")
    for k, system in enumerate(systems):
        _check_system(table(system, path, f"systems[{k}]"), classes, path, f"systems[{k}]")
    return metrics


def _check_system(system: dict[str, Any], classes: tuple[str, ...], path: Path, where: str) -> None:
    text(system.get("name"), path, f"{where}.name")
    _count(system.get("n"), path, f"{where}.n")
    if type(system.get("untrained")) is not bool:
        raise refused(path, f"{where}.untrained", "true or false is needed")
    for name in SHARES:
        number(system.get(name), path, f"{where}.{name}", _is_share)
    for name in INTERVALS:
        ends = system.get(name, "none")
        if ends is not None and (not isinstance(ends, list) or len(ends) != 2):
            raise refused(path, f"{where}.{name}", f"{short(ends)} is no interval")
        for end in ends or ():
            number(end, path, f"{where}.{name}", _is_share)
    number(system.get("temperature"), path, f"{where}.temperature", lambda value: 1e-3 <= value <= 1e3)
    for names in ERRORS:
        error = next((system[name] for name in names if name in system), None)
        number(error, path, f"{where}.{names[0]}", _is_share)
    if system.get("contributions", "none") is not None:
        shares = table(system.get("contributions"), path, f"{where}.contributions")
        if len(shares) > MOST_STREAMS:
            raise refused(path, f"{where}.contributions", "they are too many")
        for name, share in shares.items():
            text(name, path, f"{where}.contributions")
            number(share, path, f"{where}.contributions", _is_share)
    _check_classes(system, classes, path, where)


def _check_classes(system: dict[str, Any], classes: tuple[str, ...], path: Path, where: str) -> None:
    rows = table(system.get("per_class"), path, f"{where}.per_class")
    if tuple(rows) != classes:
        raise refused(path, f"{where}.per_class", "the figures are of other classes")
    for name, row in rows.items():
        _count(table(row, path, f"{where}.per_class").get("n"), path, f"{where}.per_class")
        for kind in ("precision", "recall", "f1"):
            if row.get(kind, "none") is not None:
                number(row[kind], path, f"{where}.per_class.{short(name)}.{kind}", _is_share)
    counts = items(system.get("confusion"), path, f"{where}.confusion", len(classes))
    if len(counts) != len(classes):
        raise refused(path, f"{where}.confusion", "the figures are of other classes")
    for counted in counts:
        if len(items(counted, path, f"{where}.confusion", len(classes))) != len(classes):
            raise refused(path, f"{where}.confusion", "the figures are of other classes")
        for count in counted:
            _count(count, path, f"{where}.confusion")


def _is_share(value: float) -> bool:
    return -1e-6 <= value <= 1 + 1e-6


def _count(value: object, path: Path, where: str) -> None:
    if type(value) is not int or not 0 <= value <= MOST_FACES:
        raise refused(path, where, f"{short(value)} is no number of faces")

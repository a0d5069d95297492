"""What a report or a card shows of a run, checked before anything of it is drawn: it may come from a stranger."""

from pathlib import Path
from typing import Any

from twofold.fuse.runs.received import MOST_FOLDS, MOST_STREAMS, classes_of, is_temperature
from twofold.fuse.runs.values import Value, read_json

MOST_SYSTEMS, MOST_FACES, MOST_NOTES = 10_000, 10**9, 10_000
SHARES = ("accuracy", "macro_f1", "uar")
INTERVALS = ("accuracy_interval", "macro_f1_interval")
#: of a system, by the names of all versions: one of each has to be there
ERRORS = (("calibration_error", "ece_calibrated"), ("calibration_error_before_temperature", "ece"))


def check_shown(record: Value) -> None:
    """Raises InputError for a record that says less of its streams and faces than is shown, or other things."""
    for stream in record["streams"].items(MOST_STREAMS):
        for value in (stream["backbone"], stream["view"], stream["recipe"]["weights"]):
            value.text()
        stream["dim"].count(MOST_FACES, least=0)
    record["head"]["kind"].text()
    for side in record["faces"].items(MOST_FOLDS):
        for name in ("train", "val", "test"):
            side[name].count(MOST_FACES, least=0)
    record["seconds"].number(lambda value: 0 <= value < 1e12)
    for name in ("classes_name", "created"):
        record[name].text()
    if not all(isinstance(note.value, str) for note in record["notes"].items(MOST_NOTES, least=0)):
        raise record["notes"].refused("a list of texts is needed")


def read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json of a run. Raises InputError for figures that are none, FileNotFoundError if there is no file."""
    metrics = read_json(path)
    classes = classes_of(metrics["classes"])
    for system in metrics["systems"].items(MOST_SYSTEMS, least=0):
        _check_system(system, classes)
    return metrics.table()


def _check_system(system: Value, classes: tuple[str, ...]) -> None:
    system["name"].text()
    system["n"].count(MOST_FACES, least=0)
    system["untrained"].choice((False, True))
    for name in SHARES:
        system[name].number(_is_share)
    for name in INTERVALS:
        interval = system.get(name, "none")
        for end in interval.items(2, least=2) if interval.value is not None else ():
            end.number(_is_share)
    system["temperature"].number(is_temperature)
    for names in ERRORS:
        system[next((name for name in names if name in system.table()), names[0])].number(_is_share)
    contributions = system.get("contributions", "none")
    if contributions.value is not None:
        if len(contributions.table()) > MOST_STREAMS:
            raise contributions.refused("they are too many")
        for name in contributions.table():
            Value(system.path, name, contributions.where).text()
            contributions[name].number(_is_share)
    _check_classes(system, classes)


def _check_classes(system: Value, classes: tuple[str, ...]) -> None:
    rows, counts = system["per_class"], system["confusion"]
    if tuple(rows.table()) != classes:
        raise rows.refused("the figures are of other classes")
    for name in classes:
        rows[name]["n"].count(MOST_FACES, least=0)
        for kind in ("precision", "recall", "f1"):
            share = rows[name].get(kind, "none")
            if share.value is not None:
                share.number(_is_share)
    for row in counts.items(len(classes), least=len(classes)):
        for count in row.items(len(classes), least=len(classes)):
            count.count(MOST_FACES, least=0)


def _is_share(value: float) -> bool:
    return -1e-6 <= value <= 1 + 1e-6

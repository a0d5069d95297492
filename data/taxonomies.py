"""Taxonomies of the user's own: from a TOML file, from the labels of a manifest, from a run's record."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.errors import InputError
from twofold.data.labels import BASIC, TAXONOMIES, Taxonomy, pair, parts, taxonomy
from twofold.data.utils.toml_file import read_toml

FROM_DATA = "from-data"
OWN_COLUMN = "label"  #: where own labels stand in a manifest unless the file says otherwise
KEYS = ("name", "target", "classes", "numbers", "pairs")
MOST = 500  #: classes; a column with more different values holds something else
LONGEST = 100  #: characters of a name
JOINERS = "\u200c\u200d"  #: written inside words of some scripts, though Unicode counts them as control characters
TAKEN = re.compile(r"key|split|truth|prediction|face|basic|uncertain|top\d+|share .*")  #: columns of our own tables
NOT_LABELS = ("key", "split", "group", "fold")  #: columns of a manifest that hold no classes


@dataclass(frozen=True)
class Taxonomies:
    """What `manifest classes` lists."""

    each: tuple[Taxonomy, ...]

    def text(self) -> str:
        return "\n\n".join("\n".join(_lines(classes)) for classes in self.each)

    def record(self) -> dict:
        return {"taxonomies": [record_of(classes) for classes in self.each]}


def listing(text: str = "") -> Taxonomies:
    """The taxonomy of that name or file; with an empty text, all that are built in. Raises InputError."""
    return Taxonomies((find_taxonomy(text),) if text else TAXONOMIES)


def find_taxonomy(text: str) -> Taxonomy:
    """A built-in taxonomy by name, or one's own by the path of its TOML file. Raises InputError."""
    if text == FROM_DATA:
        raise InputError(f"--classes {FROM_DATA} takes the labels of a store's manifest: only `fuse` and `sweep` "
                         "know it; elsewhere give a name or a FILE.toml")
    return read_taxonomy(Path(text)) if text.endswith(".toml") else taxonomy(text)


def read_taxonomy(path: Path) -> Taxonomy:
    """A taxonomy from TOML. Raises InputError naming the file and what in it does not hold.

    classes: the names in their order. Optional: name (else the file's), target (the manifest's column: basic or
    compound where all names are canonical, else `label`), numbers (official numbers, else 0, 1, ...), and a table
    pairs, `NAME = ["happiness", "surprise"]`, of the two basic emotions that a class is made of.
    """
    table = read_toml(path, "classes")
    try:
        return _from_table({"name": path.stem} | table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def taxonomy_of_labels(labels: Iterable[str], *, target: str) -> Taxonomy:
    """The different labels of a manifest's column as classes, in the order of numbers or letters; empty ones are none.

    Raises InputError for less than two classes, or for labels that cannot be names.
    """
    names = {plain(label) for label in labels} - {""}
    order = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    try:
        return _from_table({"name": FROM_DATA, "target": target, "classes": order})
    except InputError as error:
        raise InputError(f"the labels in the column {target!r}: {error}") from None


def record_of(classes: Taxonomy) -> dict:
    """A taxonomy as JSON holds it; `taxonomy_in` reads it back."""
    return {"name": classes.name, "target": classes.target, "source": classes.source, "classes": list(classes.classes),
            "numbers": list(classes.numbers), "parts": [list(names) for names in classes.parts]}


def taxonomy_in(run: object) -> Taxonomy:
    """The taxonomy in a run's record, which may come from a stranger: own ones are checked like a file.

    Runs of before own taxonomies have a name only. Raises InputError for what is no taxonomy.
    """
    record = run.get("taxonomy") if isinstance(run, dict) else None
    if isinstance(run, dict) and record is None:
        return taxonomy(str(run.get("classes_name"))[:LONGEST])
    if not isinstance(record, dict):
        raise InputError("no classes are recorded there")
    if record.get("source"):
        return taxonomy(str(record.get("name"))[:LONGEST])
    names, basics = record.get("classes"), record.get("parts")
    if not isinstance(names, list) or not isinstance(basics, list) or len(names) != len(basics):
        raise InputError("the classes recorded there are damaged")
    pairs = {str(name): two for name, two in zip(names, basics, strict=True) if isinstance(two, list) and len(two) == 2}
    return _from_table({key: record.get(key) for key in ("name", "target", "classes", "numbers")} | {"pairs": pairs})


def plain(label: str) -> str:
    """A label as it is compared: in Unicode's composed form (macOS names folders in the other), without margins."""
    return unicodedata.normalize("NFC", label).strip()


def _from_table(table: dict) -> Taxonomy:
    unknown = [name for name in table if name not in KEYS]
    if unknown:
        raise InputError(f"unknown {', '.join(unknown)}: keys are {', '.join(KEYS)}")
    names = _names(table.get("classes"))
    target = _target(table.get("target"), names)
    name = table["name"]
    if not isinstance(name, str) or _fault(plain(name)):
        raise InputError(f"the name {name!r} cannot stand in a table: choose a plain word")
    if name in [builtin.name for builtin in TAXONOMIES]:
        raise InputError(f"the name {name!r} is taken by a built-in taxonomy: choose another")
    return Taxonomy(plain(name), target, names, _numbers(table.get("numbers"), len(names)),
                    pairs=_pairs(table.get("pairs", {}), names))


def _names(classes: object) -> tuple[str, ...]:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError('classes must be a list of names, as classes = ["calm", "tense"]')
    names = tuple(plain(name) for name in classes)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"the class {name!r} stands there twice")
        if reason := _fault(name):
            raise InputError(f"the class {name!r} {reason}")
        if TAKEN.fullmatch(name):
            raise InputError(f"the class {name!r} is called as a column of our tables is: choose another name")
    if not 2 <= len(names) <= MOST:
        raise InputError(f"{len(names)} class{'es' if len(names) != 1 else ''}: 2 to {MOST} are needed")
    return names


def _fault(name: str) -> str:
    """Why a text cannot be a name; empty if it can."""
    if not name or len(name) > LONGEST:
        return f"is not 1 to {LONGEST} characters long"
    if any(unicodedata.category(letter)[0] == "C" or unicodedata.category(letter) in ("Zl", "Zp")
           for letter in name if letter not in JOINERS):
        return "has control characters"
    return f"begins with {name[0]!r}: spreadsheets take that for a formula" if name[0] in "=+-@" else ""


def _target(target: object, names: Sequence[str]) -> str:
    canonical = {"basic": all(name in BASIC for name in names), "compound": all(len(parts(n)) == 2 for n in names)}
    if target is None:
        return next((column for column, holds in canonical.items() if holds), OWN_COLUMN)
    if not isinstance(target, str) or _fault(target) or target in NOT_LABELS:
        raise InputError(f"the target {target!r} is no column of labels: it is basic, compound or a column of your own")
    if not canonical.get(target, True):
        strange = next(name for name in names if len(parts(name)) != {"basic": 1, "compound": 2}[target])
        raise InputError(f"a manifest's column {target} holds canonical {target} names only, and {strange!r} is none: "
                         f'put labels of your own in a column of their own, such as target = "{OWN_COLUMN}"')
    return target


def _numbers(numbers: object, count: int) -> tuple[int, ...]:
    if numbers is None:
        return tuple(range(count))
    if (not isinstance(numbers, list) or len(set(map(str, numbers))) != count or len(numbers) != count
            or not all(type(number) is int and number >= 0 for number in numbers)):
        raise InputError(f"numbers must be a list of {count} different whole numbers from 0 on, one a class")
    return tuple(numbers)


def _pairs(pairs: object, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    if not isinstance(pairs, dict):
        raise InputError('pairs must be a table, as [pairs] with a line moved = ["happiness", "sadness"]')
    basics = {plain(name): basics for name, basics in pairs.items()}
    for name, two in basics.items():
        if name not in names:
            raise InputError(f"pairs has {name!r}, which is not one of the classes")
        if not isinstance(two, list) or len(two) != 2 or two[0] == two[1] or not set(map(str, two)) <= set(BASIC):
            raise InputError(f"the pair of {name!r} is {two!r}: two different basic emotions are needed, of "
                             f"{', '.join(BASIC)}")
        if len(parts(name)) == 2 and set(two) != set(pair(name)):
            raise InputError(f"the pair of {name!r} is {' and '.join(pair(name))}, as its name says")
    return tuple(tuple(basics.get(name, parts(name))) for name in names)


def _lines(classes: Taxonomy) -> list[str]:
    column = "" if classes.target in ("basic", "compound") else ", the manifest's column of that name"
    source = f": {classes.source}" if classes.source else ""
    width = max(map(len, classes.classes))
    return [f"{classes.name} ({classes.target}{column}){source}, {len(classes.classes)} classes",
            *(f"{number:4}  {name:{width}}  {' + '.join(basics) if len(basics) > 1 else ''}".rstrip()
              for number, name, basics in zip(classes.numbers, classes.classes, classes.parts, strict=True))]

"""Basic emotions, compound expressions, the taxonomies that number them, and the spellings that people use."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.utils.csv_files import MISSING, NUMBER
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import read_toml

FROM_DATA = "from-data"
OWN_COLUMN = "label"  #: where own labels stand in a manifest unless the file says otherwise
TOML_KEYS = ("name", "target", "classes", "numbers", "pairs")
MAX_CLASSES = 500  #: classes; a column with more different values holds something else
MAX_NAME_LETTERS = 100  #: characters of a name
JOINERS = "\u200c\u200d"  #: written inside words of some scripts, though Unicode counts them as control characters
RESERVED_NAMES = re.compile(r"key|split|truth|prediction|face|basic|uncertain|top\d+|share .*")  #: of our own tables
NON_LABEL_COLUMNS = ("key", "split", "group", "fold")  #: columns of a manifest that hold no classes
BASIC = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")

ADVERBS = {"happily": "happiness", "sadly": "sadness", "fearfully": "fear", "angrily": "anger",
           "disgustedly": "disgust", "surprisedly": "surprise", "contemptuously": "contempt"}
NOUNS = {"happy": "happiness", "sad": "sadness", "surprised": "surprise", "fearful": "fear", "disgusted": "disgust",
         "angry": "anger", "contemptuous": "contempt"}


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a task, in their official order, with the numbers that the dataset gives them."""

    name: str
    target: str  #: the manifest's column that holds the labels: `basic`, `compound` or one of the user's own
    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    source: str = ""  #: whose classes these are; empty for the user's own
    pairs: tuple[tuple[str, ...], ...] = ()  #: of own classes, the two basics of each, () where it has none

    @property
    def basics(self) -> tuple[tuple[str, ...], ...]:
        """The basic emotions that each class is made of: two of a compound, one of a basic, () if nobody said."""
        return self.pairs or tuple(basic_emotions(name) for name in self.classes)

    @property
    def has_pairs(self) -> bool:
        """True if some class is made of two basic emotions."""
        return any(len(basics) == 2 for basics in self.basics)

    @property
    def label_words(self) -> str:
        """What a label of the target is called in a sentence."""
        if self.target in ("basic", "compound"):
            return f"{self.target} label"
        return f"label in the column {self.target!r}"

    def index(self, label: str) -> int:
        """Position of a label. Raises InputError if the taxonomy has no such class."""
        if label not in self.classes:
            raise InputError(f"{label!r} is not one of the classes of {self.name}: {', '.join(self.classes)}")
        return self.classes.index(label)

    def label(self, number: int) -> str:
        """The class of an official number. Raises InputError if no class has it."""
        if number not in self.numbers:
            raise InputError(f"{number} is not a class number of {self.name} "
                             f"({min(self.numbers)} to {max(self.numbers)})")
        return self.classes[self.numbers.index(number)]


_CEXPR7 = ("fearfully_surprised", "happily_surprised", "sadly_surprised", "disgustedly_surprised",
           "angrily_surprised", "sadly_fearful", "sadly_angry")
_RAFDB11 = ("happily_surprised", "happily_disgusted", "sadly_fearful", "sadly_angry", "sadly_surprised",
            "sadly_disgusted", "fearfully_angry", "fearfully_surprised", "angrily_surprised", "angrily_disgusted",
            "disgustedly_surprised")
_RAFCE14 = ("happily_surprised", "happily_disgusted", "sadly_fearful", "sadly_angry", "sadly_surprised",
            "sadly_disgusted", "fearfully_angry", "fearfully_surprised", "fearfully_disgusted", "angrily_surprised",
            "angrily_disgusted", "disgustedly_surprised", "happily_fearful", "happily_sad")
_BASIC7 = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_BASIC8 = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")

TAXONOMIES = (
    Taxonomy("cexpr7", "compound", _CEXPR7, tuple(range(7)), "C-EXPR-DB, the ABAW challenge"),
    Taxonomy("rafdb11", "compound", _RAFDB11, tuple(range(1, 12)), "RAF-DB, compound part"),
    Taxonomy("rafce14", "compound", _RAFCE14, tuple(range(14)), "RAF-CE"),
    Taxonomy("basic7", "basic", _BASIC7, tuple(range(1, 8)), "RAF-DB, basic part"),
    Taxonomy("basic8", "basic", _BASIC8, tuple(range(8)), "AffectNet"),
)


def builtin_taxonomy(name: str) -> Taxonomy:
    """The built-in taxonomy of that name. Raises InputError listing those there are."""
    for builtin in TAXONOMIES:
        if builtin.name == name:
            return builtin
    raise InputError(f"unknown classes {name!r}: choose from {', '.join(builtin.name for builtin in TAXONOMIES)}, or "
                     "give a FILE.toml of your own")


def basic_emotions(label: str) -> tuple[str, ...]:
    """The basic emotions in a canonical label: one of a basic, two of a compound, () of any other text."""
    if label in BASIC:
        return (label,)
    adverb, _, adjective = label.partition("_")
    if adverb not in ADVERBS or adjective not in NOUNS or ADVERBS[adverb] == NOUNS[adjective]:
        return ()
    return ADVERBS[adverb], NOUNS[adjective]


def basic_pair(compound: str) -> tuple[str, str]:
    """The two basics of a compound: `happily_surprised` is (`happiness`, `surprise`).

    Raises InputError unless it is an adverb and an adjective of two different basic emotions.
    """
    basics = basic_emotions(compound)
    if len(basics) != 2:
        raise InputError(f"{compound!r} is not a compound expression: an adverb ({', '.join(ADVERBS)}) and an "
                         f"adjective ({', '.join(NOUNS)}) of two different emotions, as happily_surprised")
    return basics[0], basics[1]


#: other words for a basic emotion, misspellings of well-known copies among them
ALIASES = {
    "neutral": ("neutrality", "normal"),
    "happiness": ("happy", "joy", "joyful", "happily"),
    "sadness": ("sad", "sadly", "sorrow"),
    "surprise": ("surprised", "suprise", "suprised"),
    "fear": ("fearful", "afraid", "scared", "fearfully"),
    "disgust": ("disgusted", "digust", "disgustedly"),
    "anger": ("angry", "angrily", "mad"),
    "contempt": ("contemptuous", "contemptuously"),
}
BASIC_OF = {word: name for name, words in ALIASES.items() for word in (name, *words)}
ADVERB_OF = {emotion: adverb for adverb, emotion in ADVERBS.items()}
ADJECTIVE_OF = {emotion: adjective for adjective, emotion in NOUNS.items()}
SPLIT_OF = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
            "test": "test", "testing": "test", "publictest": "val", "privatetest": "test"}


def canonical_label(label: str) -> str:
    """The canonical name of a basic or compound label (`happy`, `Happily Surprised`, `sad-angry`), else the label.

    A compound is two emotions in their order, the first as it names the adverb: `sad angry` is `sadly_angry`.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # HappilySurprised
    words = [word for word in re.split(r"[\s_\-+&/]+", spaced.lower()) if word]
    if len(words) == 1 and words[0] in BASIC_OF:
        return BASIC_OF[words[0]]
    basics = [BASIC_OF.get(word, "") for word in words]
    if len(basics) == 2 and basics[0] in ADVERB_OF and basics[1] in ADJECTIVE_OF and basics[0] != basics[1]:
        return f"{ADVERB_OF[basics[0]]}_{ADJECTIVE_OF[basics[1]]}"
    return label


def canonical_split(split: str) -> str:
    """train, val or test for the words that are used for them, else the word."""
    return SPLIT_OF.get(split.strip().lower(), split)


def label_column(label: str) -> str:
    """The manifest's column for a canonical label: basic or compound; empty for any other text."""
    return {0: "", 1: "basic", 2: "compound"}[len(basic_emotions(label))]


def parse_label_map(texts: Sequence[str] | None, classes: Taxonomy | None = None) -> dict[str, str]:
    """OLD=NEW texts as a mapping of labels; NEW is canonical, one of `classes`, or empty for no label.

    Raises InputError for a text that is otherwise, and for a label that is mapped twice.
    """
    names: dict[str, str] = {}
    own = classes.classes if classes else ()
    for text in texts or ():
        old, mark, new = text.partition("=")
        name = new if new in own else canonical_label(new)
        if not mark or not old or (name and name not in own and not basic_emotions(name)):
            raise InputError(f"--map {text!r} is not OLD=NEW, NEW being a basic emotion ({', '.join(BASIC)}), a "
                             "compound as happily_surprised, or empty for no label")
        if names.setdefault(old, name) != name:
            raise InputError(f"--map names {old!r} twice")
    return names


def rename_label(label: str, names: Mapping[str, str]) -> str:
    """A label by `--map`, as it stands there or in canonical spelling, else its canonical name."""
    return names[label] if label in names else canonical_label(label)


@dataclass(frozen=True)
class TaxonomyList:
    """What `manifest classes` lists."""

    each: tuple[Taxonomy, ...]

    def text(self) -> str:
        rows = []
        for classes in self.each:
            column = "" if classes.target in ("basic", "compound") else ", the manifest's column of that name"
            source = f": {classes.source}" if classes.source else ""
            width = max(map(len, classes.classes))
            rows += ["", f"{classes.name} ({classes.target}{column}){source}, {len(classes.classes)} classes",
                     *(f"{number:4}  {name:{width}}  {' + '.join(basics) if len(basics) > 1 else ''}".rstrip()
                       for number, name, basics in zip(classes.numbers, classes.classes, classes.basics, strict=True))]
        return "\n".join(rows[1:])

    def record(self) -> dict:
        return {"taxonomies": [taxonomy_record(classes) for classes in self.each]}


def list_taxonomies(text: str = "") -> TaxonomyList:
    """The taxonomy of that name or file; with an empty text, all that are built in. Raises InputError."""
    return TaxonomyList((load_taxonomy(text),) if text else TAXONOMIES)


def load_taxonomy(text: str) -> Taxonomy:
    """A built-in taxonomy by name, or one's own by the path of its TOML file. Raises InputError."""
    if text == FROM_DATA:
        raise InputError(f"--classes {FROM_DATA} takes the labels of a store's manifest: only `fuse` and `sweep` "
                         "know it; elsewhere give a name or a FILE.toml")
    return read_taxonomy(Path(text)) if text.endswith(".toml") else builtin_taxonomy(text)


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


def taxonomy_from_labels(labels: Iterable[str], *, target: str) -> Taxonomy:
    """The different labels of a manifest's column as classes, in the order of numbers or letters; empty ones are none.

    Raises InputError for less than two classes, or for labels that cannot be names.
    """
    names = {normalize_label(label) for label in labels} - {"", *MISSING}
    order = sorted(names, key=lambda name: (float(name), name)) if all(map(NUMBER.fullmatch, names)) else sorted(names)
    try:
        return _from_table({"name": FROM_DATA, "target": target, "classes": order})
    except InputError as error:
        raise InputError(f"the labels in the column {target!r}: {error}") from None


def taxonomy_record(classes: Taxonomy) -> dict:
    """A taxonomy as JSON holds it; `taxonomy_from_record` reads it back."""
    return {"name": classes.name, "target": classes.target, "source": classes.source, "classes": list(classes.classes),
            "numbers": list(classes.numbers), "parts": [list(names) for names in classes.basics]}


def taxonomy_from_record(run: object) -> Taxonomy:
    """The taxonomy in a run's record, which is untrusted: one's own is checked as a file is.

    Raises InputError for what is no taxonomy.
    """
    record = run.get("taxonomy") if isinstance(run, dict) else None
    if not isinstance(record, dict):
        raise InputError("no classes are recorded there")
    if record.get("source"):
        return builtin_taxonomy(str(record.get("name"))[:MAX_NAME_LETTERS])
    names, basics = record.get("classes"), record.get("parts")
    if not isinstance(names, list) or not isinstance(basics, list) or len(names) != len(basics):
        raise InputError("the classes recorded there are damaged")
    pairs = {str(name): two for name, two in zip(names, basics, strict=True) if isinstance(two, list) and len(two) == 2}
    return _from_table({key: record.get(key) for key in ("name", "target", "classes", "numbers")} | {"pairs": pairs})


def normalize_label(label: str) -> str:
    """A label as it is compared: in Unicode's composed form (macOS names folders in the other), without margins."""
    return unicodedata.normalize("NFC", label).strip()


def _from_table(table: dict) -> Taxonomy:
    unknown = [name for name in table if name not in TOML_KEYS]
    if unknown:
        raise InputError(f"unknown {', '.join(unknown)}: keys are {', '.join(TOML_KEYS)}")
    names = _names(table.get("classes"))
    target = _target(table.get("target"), names)
    name = table["name"]
    if not isinstance(name, str) or _fault(normalize_label(name)):
        raise InputError(f"the name {name!r} cannot stand in a table: choose a plain word")
    if name in [builtin.name for builtin in TAXONOMIES]:
        raise InputError(f"the name {name!r} is taken by a built-in taxonomy: choose another")
    return Taxonomy(normalize_label(name), target, names, _numbers(table.get("numbers"), len(names)),
                    pairs=_pairs(table.get("pairs", {}), names))


def _names(classes: object) -> tuple[str, ...]:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError('classes must be a list of names, as classes = ["calm", "tense"]')
    names = tuple(normalize_label(name) for name in classes)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"the class {name!r} is listed twice")
        if reason := _fault(name):
            raise InputError(f"the class {name!r} {reason}")
        if RESERVED_NAMES.fullmatch(name):
            raise InputError(f"the class {name!r} is the name of a column of our tables: choose another")
    if not 2 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{len(names)} class{'es' if len(names) != 1 else ''}: 2 to {MAX_CLASSES} are needed")
    return names


def _fault(name: str) -> str:
    """Why a text cannot be a name; empty if it can."""
    if not name or len(name) > MAX_NAME_LETTERS:
        return f"is not 1 to {MAX_NAME_LETTERS} characters long"
    if any(unicodedata.category(letter)[0] == "C" or unicodedata.category(letter) in ("Zl", "Zp")
           for letter in name if letter not in JOINERS):
        return "has control characters"
    if name[0] in "=+-@" and not NUMBER.fullmatch(name):
        return f"begins with {name[0]!r}: spreadsheets take that for a formula"
    return ""


def _target(target: object, names: Sequence[str]) -> str:
    canonical = {"basic": all(name in BASIC for name in names),
                 "compound": all(len(basic_emotions(name)) == 2 for name in names)}
    if target is None:
        return next((column for column, holds in canonical.items() if holds), OWN_COLUMN)
    if not isinstance(target, str) or _fault(target) or target in NON_LABEL_COLUMNS:
        raise InputError(f"the target {target!r} is no column of labels: it is basic, compound or a column of your own")
    if not canonical.get(target, True):
        strange = next(name for name in names if len(basic_emotions(name)) != {"basic": 1, "compound": 2}[target])
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
    basics = {normalize_label(name): basics for name, basics in pairs.items()}
    for name, two in basics.items():
        if name not in names:
            raise InputError(f"pairs has {name!r}, which is not one of the classes")
        if not isinstance(two, list) or len(two) != 2 or two[0] == two[1] or not set(map(str, two)) <= set(BASIC):
            raise InputError(f"the pair of {name!r} is {two!r}: two different basic emotions are needed, of "
                             f"{', '.join(BASIC)}")
        if len(basic_emotions(name)) == 2 and set(two) != set(basic_pair(name)):
            raise InputError(f"the pair of {name!r} is {' and '.join(basic_pair(name))}, as its name says")
    return tuple(tuple(basics.get(name, basic_emotions(name))) for name in names)

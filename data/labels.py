"""Basic emotions, compound expressions, the taxonomies that number them, and the spellings that people use."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.utils.csv_files import MISSING, NUMBER
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import read_toml

TASKS = ("classification", "distribution", "multilabel", "regression")  #: what can be learned
FROM_DATA = "from-data"
OWN_COLUMN = "label"  #: where own labels stand in a manifest unless the file says otherwise
TOML_KEYS = ("name", "target", "classes", "numbers", "pairs")
MAX_CLASSES = 500  #: classes; a column with more different values holds something else
MAX_NAME_LETTERS = 100  #: characters of a name
JOINERS = "\u200c\u200d"  #: written inside words of some scripts, though Unicode counts them as control characters
RESERVED_NAMES = re.compile(r"key|split|group|run|truth|prediction|face|basic|uncertain|top\d+|share .*|raw .*|e\d+|"
                            "source|frame|time|track|box|note|person|yaw|pitch|roll")  #: of our own tables
NON_LABEL_COLUMNS = ("key", "split", "group", "fold")  #: columns of a manifest that hold no classes

#: each basic emotion as a compound's first word, as its second, and in other words, well-known misspellings included
WORDS = {
    "neutral": ("", "", "neutrality", "normal"),
    "happiness": ("happily", "happy", "joy", "joyful"),
    "sadness": ("sadly", "sad", "sorrow"),
    "surprise": ("surprisedly", "surprised", "suprise", "suprised"),
    "fear": ("fearfully", "fearful", "afraid", "scared"),
    "disgust": ("disgustedly", "disgusted", "digust"),
    "anger": ("angrily", "angry", "mad"),
    "contempt": ("contemptuously", "contemptuous"),
}
BASIC = tuple(WORDS)
ADVERBS = {words[0]: emotion for emotion, words in WORDS.items() if words[0]}
NOUNS = {words[1]: emotion for emotion, words in WORDS.items() if words[1]}
ALIASES = {word: emotion for emotion, words in WORDS.items() for word in (emotion, *words) if word}
SPLIT_OF = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
            "test": "test", "testing": "test", "publictest": "val", "privatetest": "test"}


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
        own = self.target not in ("basic", "compound")
        return f"label in the column {self.target!r}" if own else f"{self.target} label"

    def label(self, number: int) -> str:
        """The class of an official number. Raises InputError if no class has it."""
        if number not in self.numbers:
            raise InputError(f"{number} is not a class number of {self.name} "
                             f"({min(self.numbers)} to {max(self.numbers)})")
        return self.classes[self.numbers.index(number)]

    def lines(self) -> list[str]:
        """The classes as `manifest classes` lists them."""
        column = "" if self.target in ("basic", "compound") else ", the manifest's column of that name"
        width = max(map(len, self.classes))
        return [f"{self.name} ({self.target}{column}){f': {self.source}' if self.source else ''}, "
                f"{len(self.classes)} classes",
                *(f"{number:4}  {name:{width}}  {' + '.join(basics) if len(basics) > 1 else ''}".rstrip()
                  for number, name, basics in zip(self.numbers, self.classes, self.basics, strict=True))]


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


def label_column(label: str) -> str:
    """The manifest's column for a canonical label: basic or compound; empty for any other text."""
    return ("", "basic", "compound")[len(basic_emotions(label))]


def _builtin(name: str, first: int, source: str, names: str) -> Taxonomy:
    classes = tuple(names.split())
    columns = set(map(label_column, classes))
    target = columns.pop() if len(columns) == 1 else OWN_COLUMN
    return Taxonomy(name, target, classes, tuple(range(first, first + len(classes))), source)


TAXONOMIES = (
    _builtin("cexpr7", 0, "C-EXPR-DB, the ABAW challenge",
             "fearfully_surprised happily_surprised sadly_surprised disgustedly_surprised angrily_surprised "
             "sadly_fearful sadly_angry"),
    _builtin("rafdb11", 1, "RAF-DB, compound part",
             "happily_surprised happily_disgusted sadly_fearful sadly_angry sadly_surprised sadly_disgusted "
             "fearfully_angry fearfully_surprised angrily_surprised angrily_disgusted disgustedly_surprised"),
    _builtin("rafce14", 0, "RAF-CE",
             "happily_surprised happily_disgusted sadly_fearful sadly_angry sadly_surprised sadly_disgusted "
             "fearfully_angry fearfully_surprised fearfully_disgusted angrily_surprised angrily_disgusted "
             "disgustedly_surprised happily_fearful happily_sad"),
    _builtin("basic7", 1, "RAF-DB, basic part", "surprise fear disgust happiness sadness anger neutral"),
    _builtin("basic8", 0, "AffectNet", " ".join(BASIC)),
    _builtin("basic6", 1, "RAF-ML", "surprise fear disgust happiness sadness anger"),
    _builtin("blemore6", 0, "BLEMORE", "anger disgust fear happiness neutral sadness"),
    _builtin("mafw11", 0, "MAFW", "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness "
             "disappointment"),
)


def builtin_taxonomy(name: str) -> Taxonomy:
    """The built-in taxonomy of that name. Raises InputError listing those there are."""
    builtin = {classes.name: classes for classes in TAXONOMIES}
    if name not in builtin:
        raise InputError(f"unknown classes {name!r}: choose from {', '.join(builtin)}, or give "
                         "two or more names of your own between commas, or a FILE.toml")
    return builtin[name]


def canonical_label(label: str) -> str:
    """The canonical name of a basic or compound label (`happy`, `Happily Surprised`, `sad-angry`), else the label.

    A compound is two emotions in their order, the first as it names the adverb: `sad angry` is `sadly_angry`.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # HappilySurprised
    basics = [ALIASES.get(word, "") for word in re.split(r"[\s_\-+&/]+", spaced.lower()) if word]
    if len(basics) == 1 and basics[0]:
        return basics[0]
    name = f"{WORDS[basics[0]][0]}_{WORDS[basics[1]][1]}" if len(basics) == 2 and all(basics) else ""
    return name if basic_emotions(name) else label


def parse_label_map(texts: Sequence[str] | None, classes: Taxonomy | None = None) -> dict[str, str]:
    """OLD=NEW texts as a mapping of labels; NEW is canonical, one of `classes`, or empty for no label.

    Raises InputError for a text that is otherwise, and for a label that is mapped twice.
    """
    names: dict[str, str] = {}
    own = classes.classes if classes else ()
    for text in [texts] if isinstance(texts, str) else texts or ():
        old, mark, new = text.partition("=")
        name = new if new in own else canonical_label(new)
        if not mark or not normalize_label(old) or (name and name not in own and not basic_emotions(name)):
            raise InputError(f"--map {text!r} is not OLD=NEW, NEW being a basic emotion ({', '.join(BASIC)}), a "
                             "compound as happily_surprised, or empty for no label")
        if names.setdefault(normalize_label(old), name) != name:
            raise InputError(f"--map names {old!r} twice")
    return names


def load_taxonomy(chosen: str | Path | Sequence[str], *, target: str = "") -> Taxonomy:
    """A built-in taxonomy by name, or one's own: names (a list, or between commas) or a TOML file. Raises InputError.

    target: the column of labels that a list of names is for. A file has classes, the names in their order, and perhaps
    name (else the file's), target (the manifest's column: basic or compound where all names are canonical, else
    `label`), numbers (official numbers, else 0, 1, ...), and a table pairs, `NAME = ["happiness", "surprise"]`, of the
    two basic emotions that a class is made of.
    """
    text = chosen if isinstance(chosen, str) else str(chosen) if isinstance(chosen, Path) else ",".join(chosen)
    if text == FROM_DATA:
        raise InputError(f"--classes {FROM_DATA} takes the labels of a store's manifest: only `fuse` and `sweep` "
                         "know it; elsewhere give a name or a FILE.toml")
    if "," in text and not text.endswith(".toml"):
        table = {"name": "own", "target": target or None, "classes": [name.strip() for name in text.split(",")]}
        return _own_taxonomy(table, f"--classes {text[:MAX_NAME_LETTERS]}: ")
    if not text.endswith(".toml"):
        return builtin_taxonomy(text)
    path = Path(text)
    return _own_taxonomy({"name": path.stem} | read_toml(path, "classes"), f"{path}: ")


def taxonomy_from_labels(labels: Iterable[str], *, target: str) -> Taxonomy:
    """The different labels of a manifest's column as classes, in the order of numbers or letters; empty ones are none.

    Raises InputError for less than two classes, or for labels that cannot be names.
    """
    names = {normalize_label(label) for label in labels} - {"", *MISSING}
    order = sorted(names, key=lambda name: (float(name), name)) if all(map(NUMBER.fullmatch, names)) else sorted(names)
    return _own_taxonomy({"name": FROM_DATA, "target": target, "classes": order},
                         f"the labels in the column {target!r}: ")


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
    return _own_taxonomy({key: record.get(key) for key in ("name", "target", "classes", "numbers")} | {"pairs": pairs})


def normalize_label(label: str) -> str:
    """A label as it is compared: in Unicode's composed form (macOS names folders in the other), without margins."""
    return unicodedata.normalize("NFC", label).strip()


def _own_taxonomy(table: dict, source: str = "") -> Taxonomy:
    """The user's own classes. Raises InputError, in a sentence that begins with `source`, for what does not hold."""

    def require(sound: object, sentence: str) -> None:
        if not sound:
            raise InputError(source + sentence)

    unknown = [name for name in table if name not in TOML_KEYS]
    require(not unknown, f"unknown {', '.join(unknown)}: keys are {', '.join(TOML_KEYS)}")

    classes = table.get("classes")
    require(isinstance(classes, list) and all(isinstance(name, str) for name in classes),
            'classes must be a list of names, as classes = ["calm", "tense"]')
    names = tuple(normalize_label(name) for name in classes or ())
    for number, name in enumerate(names):
        require(name not in names[:number], f"the class {name!r} is listed twice")
        require(not _fault(name), f"the class {name!r} {_fault(name)}")
        require(not RESERVED_NAMES.fullmatch(name),
                f"the class {name!r} is the name of a column of our tables: choose another")
    require(2 <= len(names) <= MAX_CLASSES,
            f"{len(names)} class{'es' if len(names) != 1 else ''}: 2 to {MAX_CLASSES} are needed")

    canonical = {column: all(label_column(name) == column for name in names) for column in ("basic", "compound")}
    target = table.get("target")
    if target is None:
        target = next((column for column, holds in canonical.items() if holds), OWN_COLUMN)
    require(isinstance(target, str) and not _fault(target) and target not in NON_LABEL_COLUMNS,
            f"the target {target!r} is no column of labels: it is basic, compound or a column of your own")
    if not canonical.get(target, True):
        strange = next(name for name in names if label_column(name) != target)
        require(False, f"a manifest's column {target} holds canonical {target} names only, and {strange!r} is none: "
                       f'put labels of your own in a column of their own, such as target = "{OWN_COLUMN}"')

    own = table["name"]
    require(isinstance(own, str) and not _fault(normalize_label(own)),
            f"the name {own!r} cannot stand in a table: choose a plain word")
    require(own not in [builtin.name for builtin in TAXONOMIES],
            f"the name {own!r} is taken by a built-in taxonomy: choose another")

    numbers = table.get("numbers")
    numbers = list(range(len(names))) if numbers is None else numbers
    require(isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)
            and len(numbers) == len(set(numbers)) == len(names),
            f"numbers must be a list of {len(names)} different whole numbers from 0 on, one a class")

    pairs = table.get("pairs", {})
    require(isinstance(pairs, dict), 'pairs must be a table, as [pairs] with a line moved = ["happiness", "sadness"]')
    basics = {normalize_label(name): two for name, two in pairs.items()}
    for name, two in basics.items():
        require(name in names, f"pairs has {name!r}, which is not one of the classes")
        require(isinstance(two, list) and len(two) == 2 and two[0] != two[1] and set(map(str, two)) <= set(BASIC),
                f"the pair of {name!r} is {two!r}: two different basic emotions are needed, of {', '.join(BASIC)}")
        require(len(basic_emotions(name)) != 2 or set(two) == set(basic_emotions(name)),
                f"the pair of {name!r} is {' and '.join(basic_emotions(name))}, as its name says")
    return Taxonomy(normalize_label(own), target, names, tuple(numbers),
                    pairs=tuple(tuple(basics.get(name, basic_emotions(name))) for name in names))


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

"""Labels and splits as people write them, to the names that manifests use."""

import re
from collections.abc import Mapping, Sequence

from twofold.data.errors import InputError
from twofold.data.labels import ADVERBS, BASIC, NOUNS, Taxonomy, parts

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


def canonical(label: str) -> str:
    """The canonical name of a basic or compound label (`happy`, `Happily Surprised`, `sad-angry`), else the label.

    A compound is two emotions in their order, the first as it names the adverb: `sad angry` is `sadly_angry`.
    """
    words = _words(label)
    if len(words) == 1 and words[0] in BASIC_OF:
        return BASIC_OF[words[0]]
    basics = [BASIC_OF.get(word, "") for word in words]
    if len(basics) == 2 and basics[0] in ADVERB_OF and basics[1] in ADJECTIVE_OF and basics[0] != basics[1]:
        return f"{ADVERB_OF[basics[0]]}_{ADJECTIVE_OF[basics[1]]}"
    return label


def canonical_split(split: str) -> str:
    """train, val or test for the words that are used for them, else the word."""
    return SPLIT_OF.get(split.strip().lower(), split)


def target_of(label: str) -> str:
    """The manifest's column for a canonical label: basic or compound; empty for any other text."""
    return {0: "", 1: "basic", 2: "compound"}[len(parts(label))]


def parse_map(texts: Sequence[str] | None, classes: Taxonomy | None = None) -> dict[str, str]:
    """OLD=NEW texts as a mapping of labels; NEW is canonical, one of `classes`, or empty for no label.

    Raises InputError for a text that is otherwise, and for a label that is mapped twice.
    """
    names: dict[str, str] = {}
    own = classes.classes if classes else ()
    for text in texts or ():
        old, mark, new = text.partition("=")
        name = new if new in own else canonical(new)
        if not mark or not old or (name and name not in own and not parts(name)):
            raise InputError(f"--map {text!r} is not OLD=NEW, NEW being a basic emotion ({', '.join(BASIC)}), a "
                             "compound as happily_surprised, or empty for no label")
        if names.setdefault(old, name) != name:
            raise InputError(f"--map names {old!r} twice")
    return names


def renamed(label: str, names: Mapping[str, str]) -> str:
    """A label by `--map`, as it stands there or in canonical spelling, else its canonical name."""
    return names[label] if label in names else canonical(label)


def _words(label: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # HappilySurprised
    return [word for word in re.split(r"[\s_\-+&/]+", spaced.strip().lower()) if word]

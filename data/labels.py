"""Basic emotions, compound expressions, and the taxonomies that datasets number them by."""

from dataclasses import dataclass

from twofold.data.errors import InputError

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
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The basic emotions that each class is made of: two of a compound, one of a basic, () if nobody said."""
        return self.pairs or tuple(parts(name) for name in self.classes)

    @property
    def has_pairs(self) -> bool:
        """True if some class is made of two basic emotions."""
        return any(len(basics) == 2 for basics in self.parts)

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


def taxonomy(name: str) -> Taxonomy:
    """The built-in taxonomy of that name. Raises InputError listing those there are."""
    for builtin in TAXONOMIES:
        if builtin.name == name:
            return builtin
    raise InputError(f"unknown classes {name!r}: choose from {', '.join(builtin.name for builtin in TAXONOMIES)}, or "
                     "give a FILE.toml of your own")


def parts(label: str) -> tuple[str, ...]:
    """The basic emotions in a canonical label: one of a basic, two of a compound, () of any other text."""
    if label in BASIC:
        return (label,)
    adverb, _, adjective = label.partition("_")
    if adverb not in ADVERBS or adjective not in NOUNS or ADVERBS[adverb] == NOUNS[adjective]:
        return ()
    return ADVERBS[adverb], NOUNS[adjective]


def pair(compound: str) -> tuple[str, str]:
    """The two basics of a compound: `happily_surprised` is (`happiness`, `surprise`).

    Raises InputError unless it is an adverb and an adjective of two different basic emotions.
    """
    basics = parts(compound)
    if len(basics) != 2:
        raise InputError(f"{compound!r} is not a compound expression: an adverb ({', '.join(ADVERBS)}) and an "
                         f"adjective ({', '.join(NOUNS)}) of two different emotions, as happily_surprised")
    return basics[0], basics[1]

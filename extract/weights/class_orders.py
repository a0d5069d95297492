"""In which order a checkpoint gives its classes: the wrong order scores about 11 %."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.data.labels import JOINERS, TAXONOMIES, load_taxonomy
from twofold.data.utils.errors import InputError

if TYPE_CHECKING:
    from twofold.extract.weights.read import Checkpoint

_AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")

#: of the checkpoints of POSTER++, by the data set that they were trained on
ORDERS = {"rafdb": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
          "affectnet7": _AFFECTNET, "affectnet8": (*_AFFECTNET, "contempt")}
LONGEST = 4_000  #: characters that the names of all classes have together
ALPHABETICAL = "alphabetical:"
HOW_TO_NAME_CLASSES = (
    "say it with --classes-of NAME=ORDER, where ORDER is rafdb, affectnet7, affectnet8, a taxonomy (basic7), "
    "alphabetical:basic7 for folders that were read in the order of their names, or the classes between commas")


def class_order(text: str) -> tuple[str, ...]:
    """The classes that a person means by `text`: a data set of ORDERS, a taxonomy or its file, `alphabetical:` before
    one of these, or names between commas. Raises InputError for anything else."""
    if text.startswith(ALPHABETICAL):
        return tuple(sorted(class_order(text.removeprefix(ALPHABETICAL))))
    if text in ORDERS:
        return ORDERS[text]
    if text in ("caers", "caer-s"):
        raise InputError("the class order of CAER-S checkpoints is not certain: it is alphabetical:basic7 if they were "
                         "trained on its folders as they are, rafdb if somebody put them into RAF-DB's order; try both "
                         "on faces with labels")
    if text.endswith(".toml") or text in (builtin.name for builtin in TAXONOMIES):
        return load_taxonomy(text).classes
    if "," not in text:
        raise InputError(f"unknown class order {text!r}: {HOW_TO_NAME_CLASSES}")
    names = tuple(name.strip() for name in text.split(","))
    if not all(map(str.isprintable, names)) or not all(names) or len(set(names)) != len(names):
        raise InputError(f"class order {text!r}: a class has no name, or two have the same")
    return names


def order_of(checkpoint: "Checkpoint", count: int, *, backbone: str) -> tuple[str, ...]:
    """The order of a checkpoint with `count` classes, or () where it cannot be known.

    What `finetune` or `weights convert --classes` wrote into the file counts first; of POSTER++, then the number of
    classes, then the data set in the file's name.
    """
    written = checkpoint.metadata.get("classes", "")
    if written:
        names = tuple(written.split(","))
        require_names(names, checkpoint.path)
        return names if len(names) == count else ()
    if backbone != "posterv2":
        return ()
    if count == 8:
        return ORDERS["affectnet8"]
    return _order_by_name(checkpoint.path) if count == 7 else ()


def require_names(names: Sequence[str], path: Path) -> None:
    """Raises InputError for classes that no feature file may have: without a name, twice the same, endless ones."""
    bare = [name.translate(dict.fromkeys(map(ord, JOINERS))) for name in names]
    usable = all(name.isprintable() and name.strip() for name in bare) and len(set(names)) == len(names)
    if not usable or sum(map(len, names)) > LONGEST:
        raise InputError(f"{path}: the classes that it names are no different short names: say their order with "
                         "--classes-of")


def _order_by_name(path: Path) -> tuple[str, ...]:
    """By the one data set that a file's name tells of. CAER-S is none of them: its order is not certain."""
    name = path.name.lower().replace("-", "").replace("_", "")
    cues = {"raf": ORDERS["rafdb"], "affectnet": ORDERS["affectnet7"], "caer": ()}
    orders = [order for cue, order in cues.items() if cue in name]
    return orders[0] if len(orders) == 1 else ()

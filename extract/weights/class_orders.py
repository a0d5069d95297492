"""In which order a POSTER++ checkpoint gives the basic emotions: the wrong order scores about 11 %."""

from twofold.data.errors import InputError
from twofold.extract.weights.read import Checkpoint

_RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")

HOW_TO_NAME_CLASSES = (
    "convert them with `weights convert IN -o OUT.safetensors --classes rafdb` (or caers, affectnet7, affectnet8), or "
    "give the file of POSTER++ a name with its data set in it, as posterv2_rafdb.pth")

ORDERS = {"rafdb": _RAFDB, "caers": _RAFDB, "affectnet7": _AFFECTNET, "affectnet8": (*_AFFECTNET, "contempt")}


def order(name: str) -> tuple[str, ...]:
    """The order of a data set's checkpoints. Raises InputError for one that is not known."""
    if name not in ORDERS:
        raise InputError(f"unknown class order {name!r}: choose from {', '.join(ORDERS)}")
    return ORDERS[name]


def order_of(checkpoint: Checkpoint, count: int, *, backbone: str) -> tuple[str, ...]:
    """The order of a checkpoint with `count` classes, or () where it cannot be known.

    What `weights convert --classes` wrote into the file counts first; of POSTER++, then the number of classes, then
    the data set in the file's name.
    """
    written = checkpoint.metadata.get("classes", "")
    if written:
        named = tuple(written.split(","))
        return named if len(named) == count else ()
    if backbone != "posterv2":
        return ()
    if count == 8:
        return ORDERS["affectnet8"]
    name = checkpoint.path.name.lower().replace("-", "").replace("_", "")
    known = {ORDERS[data] for data, cue in (("rafdb", "raf"), ("caers", "caer"), ("affectnet7", "affectnet"))
             if cue in name}
    return known.pop() if len(known) == 1 and count == 7 else ()

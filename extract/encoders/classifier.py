"""The classifier that a checkpoint brings besides its encoder, and the order of its classes.

A wrong order scores about 11 %. Imports no torch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.data.labels import JOINERS, TAXONOMIES, load_taxonomy
from twofold.data.utils.errors import InputError

if TYPE_CHECKING:
    import torch

    from twofold.extract.weights.read import Checkpoint

log = logging.getLogger(__name__)

MAX_CLASSES = 100  #: more than these are identities or objects rather than expressions
_AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
#: class orders by the dataset that a checkpoint was trained on
CLASS_ORDERS: dict[str, tuple[str, ...]] = {
    "rafdb": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
    "affectnet7": _AFFECTNET, "affectnet8": (*_AFFECTNET, "contempt")}
OrderOfFile = Callable[[str, int], tuple[str, ...]]  #: from a file's name and the number of classes
LinearLayer = tuple[np.ndarray, np.ndarray]  #: weight (D, C) and bias (C,), float32
MAX_NAMES_LENGTH = 4_000  #: characters that the names of all classes have together
ALPHABETICAL = "alphabetical:"
CLASS_ORDER_HELP = (
    "say it with --classes-of NAME=ORDER, where ORDER is rafdb, affectnet7, affectnet8, a taxonomy (basic7), "
    "alphabetical:basic7 for folders that were read in the order of their names, or the classes between commas")


def class_order(text: str) -> tuple[str, ...]:
    """Parse a class order: a dataset of CLASS_ORDERS, a taxonomy or its file, `alphabetical:` before one of these, or
    names between commas. Raises InputError for anything else."""
    if text.startswith(ALPHABETICAL):
        return tuple(sorted(class_order(text.removeprefix(ALPHABETICAL))))
    if text in CLASS_ORDERS:
        return CLASS_ORDERS[text]
    if text in ("caers", "caer-s"):
        raise InputError("the class order of CAER-S checkpoints is not certain: it is alphabetical:basic7 if they were "
                         "trained on its folders as they are, rafdb if somebody put them into RAF-DB's order; try both "
                         "on faces with labels")
    if text.endswith(".toml") or text in (builtin.name for builtin in TAXONOMIES):
        return load_taxonomy(text).classes
    if "," not in text:
        raise InputError(f"unknown class order {text!r}: {CLASS_ORDER_HELP}")
    names = tuple(name.strip() for name in text.split(","))
    if not all(map(str.isprintable, names)) or not all(names) or len(set(names)) != len(names):
        raise InputError(f"class order {text!r}: a class has no name, or two have the same")
    return names


def _class_order(checkpoint: "Checkpoint", count: int, order_of_file: OrderOfFile | None) -> tuple[str, ...]:
    """The classes that `finetune` or `weights convert --classes` wrote into the file, else those that its name says."""
    written = checkpoint.metadata.get("classes", "")
    if not written:
        return order_of_file(checkpoint.path.name, count) if order_of_file else ()
    names = tuple(written.split(","))
    require_names(names, checkpoint.path)
    return names if len(names) == count else ()


def require_names(names: Sequence[str], path: Path) -> None:
    """Raise InputError for classes that no feature file may have: without a name, twice the same, endless ones."""
    bare = [name.translate(dict.fromkeys(map(ord, JOINERS))) for name in names]
    usable = all(name.isprintable() and name.strip() for name in bare) and len(set(names)) == len(names)
    if not usable or sum(map(len, names)) > MAX_NAMES_LENGTH:
        raise InputError(f"{path}: the classes that it names are no different short names: say their order with "
                         "--classes-of")


def single_linear_layer(entries: "Mapping[str, torch.Tensor]", *, dim: int) -> LinearLayer | None:
    """The linear layer of a classifier's entries, from `dim` numbers on, or None where there is more, or less, to it.

    What lies between (another layer, a norm) would make the logits something else than an affine map of the embedding.
    """
    names = sorted(entries, key=lambda name: name.endswith(".weight"))
    if len(names) != 2 or names[0].removesuffix("bias") != names[1].removesuffix("weight"):
        return None
    bias, weight = (entries[name].float() for name in names)
    if weight.shape[1:] not in ((dim,), (dim, 1, 1)) or bias.shape != weight.shape[:1]:
        return None
    return weight.reshape(len(weight), dim).T.numpy().copy(), bias.numpy().copy()


def checkpoint_classifier(name: str, layer: LinearLayer | None, checkpoint: "Checkpoint", *,
                          classes: tuple[str, ...] = (), order_of_file: OrderOfFile | None = None,
                          ) -> tuple[BackboneClassifier | None, int]:
    """The layer with its classes; or None, and of how many classes it is where nobody says their order.

    name: the backbone's; classes: the order that the user gave; order_of_file: what the preset says. Raises InputError
    for an order of another number of classes, or for numbers that are not finite.
    """
    if layer is None:
        if classes:
            raise InputError(f"--classes-of {name}: {checkpoint.path} brings no classifier of one linear layer")
        return None, 0
    count = len(layer[1])
    if classes and len(classes) != count:
        raise InputError(f"--classes-of {name}: {len(classes)} classes are named, the classifier of {checkpoint.path} "
                         f"has {count}")
    classes = classes or _class_order(checkpoint, count, order_of_file)
    if not classes:
        if count > MAX_CLASSES:
            log.info("%s: the %d classes of %s are no expressions, its classifier is left aside", name, count,
                     checkpoint.path.name)
            return None, 0
        log.info("%s: the order of the %d classes of %s is not known, its classifier is left aside: %s", name, count,
                 checkpoint.path.name, CLASS_ORDER_HELP)
        return None, count
    if not (np.isfinite(layer[0]).all() and np.isfinite(layer[1]).all()):
        raise InputError(f"{checkpoint.path}: its classifier holds numbers that are not finite, so the file is damaged")
    return BackboneClassifier(classes, *layer), 0

"""The classifier that a checkpoint brings besides its encoder: the last linear layer, and the names of its classes."""

import logging
from collections.abc import Mapping

import numpy as np
import torch

from twofold.cache.classifier import BackboneClassifier
from twofold.data.utils.errors import InputError
from twofold.extract.weights.class_orders import HOW_TO_NAME_CLASSES, order_of
from twofold.extract.weights.read import Checkpoint

log = logging.getLogger(__name__)

MOST_CLASSES = 100  #: more than these are identities or objects rather than expressions
Layer = tuple[np.ndarray, np.ndarray]  #: weight (D, C) and bias (C,), float32


def last_layer(entries: Mapping[str, torch.Tensor], *, dim: int) -> Layer | None:
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


def own_classifier(name: str, layer: Layer | None, checkpoint: Checkpoint, *,
                   classes: tuple[str, ...] = ()) -> tuple[BackboneClassifier | None, int]:
    """The layer with its classes; or None, and of how many classes it is where nobody says their order.

    name: the backbone's; classes: the order that a person gave. Raises InputError for an order of another number of
    classes, or for numbers that are not finite.
    """
    if layer is None:
        if classes:
            raise InputError(f"--classes-of {name}: {checkpoint.path} brings no classifier of one linear layer")
        return None, 0
    count = len(layer[1])
    if classes and len(classes) != count:
        raise InputError(f"--classes-of {name}: {len(classes)} classes are named, the classifier of {checkpoint.path} "
                         f"has {count}")
    classes = classes or order_of(checkpoint, count, backbone=name)
    if not classes:
        if count > MOST_CLASSES:
            log.info("%s: the %d classes of %s are no expressions, its classifier is left aside", name, count,
                     checkpoint.path.name)
            return None, 0
        log.info("%s: the order of the %d classes of %s is not known, its classifier is left aside: %s", name, count,
                 checkpoint.path.name, HOW_TO_NAME_CLASSES)
        return None, count
    if not (np.isfinite(layer[0]).all() and np.isfinite(layer[1]).all()):
        raise InputError(f"{checkpoint.path}: its classifier holds numbers that are not finite, so the file is damaged")
    return BackboneClassifier(classes, *layer), 0

"""The classifier that a checkpoint brings besides its encoder: the last linear layer, and the names of its classes."""

import logging
from collections.abc import Mapping

import numpy as np
import torch

from twofold.cache.format.classifier import OwnClassifier
from twofold.data.errors import InputError
from twofold.extract.weights.class_orders import order_of
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


def own_classifier(name: str, layer: Layer | None, checkpoint: Checkpoint) -> tuple[OwnClassifier | None, int]:
    """The layer with its classes; or None, and of how many classes it is where nobody says their order.

    name: the backbone's. Raises InputError for a layer that is not made of finite numbers.
    """
    if layer is None:
        return None, 0
    classes = order_of(checkpoint, len(layer[1]), backbone=name)
    if not classes and len(layer[1]) > MOST_CLASSES:
        return None, 0
    if not classes:
        log.info("%s: the order of the %d classes of %s is not known: its classifier is left aside", name,
                 len(layer[1]), checkpoint.path.name)
        return None, len(layer[1])
    if not (np.isfinite(layer[0]).all() and np.isfinite(layer[1]).all()):
        raise InputError(f"{checkpoint.path}: its classifier holds numbers that are not finite, so the file is damaged")
    return OwnClassifier(classes, *layer), 0

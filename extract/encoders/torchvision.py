"""Backbones `torchvision:NAME`: the classification models of torchvision, their classifier removed."""

import logging
import os
from functools import partial
from pathlib import Path

import torch
from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.finetuned import PREPROCESSING
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.weights.find import PublishedWeights, default_file
from twofold.extract.weights.read import Checkpoint, file_sha256

log = logging.getLogger(__name__)


def check_name(name: str) -> None:
    """Raise InputError unless torchvision has a classification model of that name."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise InputError(f"torchvision has no classification model {name!r}: see torchvision.models.list_models()")


def build(name: str, *, checkpoint: Checkpoint | None, size: int, drop_path: float) -> Architecture:
    """The model without its classifier; its preprocessing is that of the published weights that the checkpoint is."""
    network, heads = trunk(name)
    published_file = checkpoint is not None and PREPROCESSING not in checkpoint.metadata
    return Architecture(name=f"torchvision.{name}", network=network, tap="pooled features, classifier removed",
                        preprocessing=_preprocessing(name, checkpoint if published_file else None), heads=heads)


def published(name: str) -> PublishedWeights:
    """torchvision's first published weights of a model."""
    backbone = f"torchvision:{name}"
    return PublishedWeights(backbone=backbone, files=(default_file(backbone),), download=partial(_download, name))


def licence(_name: str) -> str:
    """torchvision states none for its weights."""
    return ""


def trunk(name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A torchvision classifier with everything from its first trained head layer on taken off."""
    from torchvision import models

    # what the two Inceptions do to their input when weights are asked for, which is how they were trained
    options = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    head = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    setattr(network, head, _without_classifier(getattr(network, head)))
    return network, (f"{head}.",)


def _without_classifier(head: nn.Module) -> nn.Module:
    """What stands before the first linear or convolution of a head (norms, flattening), and any pooling after it."""
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    kept = layers[:first] + [layer for layer in layers[first:] if isinstance(layer, nn.AdaptiveAvgPool2d)]
    return nn.Sequential(*kept)


def _preprocessing(name: str, checkpoint: Checkpoint | None) -> Preprocessing:
    """The transform of the published weights that the checkpoint is, else of the model's first ones.

    torchvision names its files after the start of their SHA-256, so that a renamed file is still known; a converted
    one remembers its source.
    """
    from torchvision import models

    published = list(models.get_model_weights(name))
    weights = published[0]
    if checkpoint:
        digest = checkpoint.metadata.get("source_sha256") or file_sha256(checkpoint.path)
        matches = [weights for weights in published if f"-{digest[:8]}." in weights.url]
        weights = matches[0] if matches else weights
        if not matches and len({repr(weights.transforms()) for weights in published}) > 1:
            log.warning("%s is not a file that torchvision publishes for %s: preprocessing is that of %s",
                        checkpoint.path, name, weights.name)
    transform = weights.transforms()
    return Preprocessing(
        size=transform.crop_size[0], resize=transform.resize_size[0], interpolation=transform.interpolation.value,
        mean=tuple(transform.mean), std=tuple(transform.std),
    )


def _download(name: str) -> Path:
    """The published weights from torchvision's cache or its site, checked by their hash."""
    from torchvision import models

    url = next(iter(models.get_model_weights(name))).url
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if target.is_file():
        return target
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConnectionError(f"HF_HUB_OFFLINE is set and {target} is not there")
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(target), hash_prefix=target.stem.rpartition("-")[2])
    return target

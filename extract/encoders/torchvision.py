"""Backbones `torchvision:NAME`: the classification models of torchvision, their classifier removed.

Also what the lineage's own ResNet-50 of FER+ needs, with Caffe's names and strides on torchvision's network:
`resnet50_ferplus_dag`, https://www.robots.ox.ac.uk/~albanie/pytorch-models.html
"""

import logging
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import PREPROCESSING
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.weights.find import PublishedWeights, default_file
from twofold.extract.weights.read import Checkpoint, file_sha256

log = logging.getLogger(__name__)

_CAFFE_LAYER = re.compile(r"conv([2-5])_(\d)_(1x1_reduce|3x3|1x1_increase|1x1_proj)(_bn)?\.(.+)")
_CAFFE_NAMES = {"1x1_reduce": ("conv1", "bn1"), "3x3": ("conv2", "bn2"), "1x1_increase": ("conv3", "bn3"),
                "1x1_proj": ("downsample.0", "downsample.1")}


def check_name(name: str) -> None:
    """Raise InputError unless torchvision has a classification model of that name."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise InputError(f"torchvision has no classification model {name!r}: see torchvision.models.list_models()")


def build(name: str, *, checkpoint: Checkpoint | None, size: int, drop_path: float) -> Architecture:
    """The model without its classifier; its preprocessing is that of the published weights that the checkpoint is."""
    network, heads = trunk(name)
    published_file = checkpoint is not None and PREPROCESSING not in checkpoint.metadata
    built = Architecture(name=f"torchvision.{name}", network=network, tap="pooled features, classifier removed",
                         preprocessing=_preprocessing(name, checkpoint if published_file else None), heads=heads)
    # SqueezeNet rectifies each place of the map behind its last layer: its logits are no affine map of the mean
    return replace(built, classifier=lambda *_, **__: None) if name.startswith("squeezenet") else built


def published(name: str) -> PublishedWeights:
    """torchvision's first published weights of a model; it states no licence for them."""
    backbone = f"torchvision:{name}"
    return PublishedWeights(backbone=backbone, files=(default_file(backbone),), download=partial(_download, name))


def trunk(name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A torchvision classifier with everything from its first trained head layer on taken off, and the head's prefix.

    What stands before that layer (norms, flattening), and any pooling after it, stays.
    """
    from torchvision import models

    # what the two Inceptions do to their input when weights are asked for, which is how they were trained
    options = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    head = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    whole = network.get_submodule(head)
    layers = list(whole.children()) if isinstance(whole, nn.Sequential) else [whole]
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    pools = [layer for layer in layers[first:] if isinstance(layer, nn.AdaptiveAvgPool2d)]
    setattr(network, head, nn.Sequential(*layers[:first], *pools))
    return network, (f"{head}.",)


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
    return Preprocessing(size=transform.crop_size[0], resize=transform.resize_size[0], mean=tuple(transform.mean),
                         std=tuple(transform.std), interpolation=transform.interpolation.value)


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


# -------------------------------------------------------------------------------------------------- Caffe's ResNet
def rename_from_caffe(name: str) -> str:
    """The name that torchvision's ResNet has for an entry: `conv3_1_1x1_reduce_bn.bias` is `layer2.0.bn1.bias`."""
    if layer := _CAFFE_LAYER.fullmatch(name):
        stage, block, part, norm, rest = layer.groups()
        return f"layer{int(stage) - 1}.{int(block) - 1}.{_CAFFE_NAMES[part][bool(norm)]}.{rest}"
    return re.sub(r"^conv1_7x7_s2(_bn)?\.", lambda stem: "bn1." if stem[1] else "conv1.", name)


def with_caffe_strides(resnet: Any) -> nn.Module:
    """Change torchvision's ResNet-50, in place: blocks halve the map in their first 1x1, and pooling rounds up."""
    resnet.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return resnet


class Conv5(nn.Module):
    """A ResNet-50 up to its last 3x3 convolution (normed, rectified), averaged over the map: (B, 512)."""

    def __init__(self, resnet: Any) -> None:
        super().__init__()
        last = resnet.layer4[2]
        self.body = nn.Sequential(
            resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, resnet.layer3,
            *resnet.layer4[:2], last.conv1, last.bn1, last.relu, last.conv2, last.bn2, last.relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))

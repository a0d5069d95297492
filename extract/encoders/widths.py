"""What a model would be, worked out without building it: a stranger's names and files cost nothing."""

from dataclasses import replace
from pathlib import Path

import torch

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.libraries import build_with
from twofold.extract.encoders.preprocessing_options import split_name
from twofold.extract.weights.finetuned import without_ours
from twofold.extract.weights.load import require_shapes
from twofold.extract.weights.read import read_checkpoint

LIBRARIES = ("timm:", "torchvision:")
MOST_DRAWN = 150_000_000  #: random weights that a run may ask for: 600 MB, more than any of the presets has


def check_width(backbone: str, dim: int, *, untrained: bool = False) -> None:
    """Raises InputError if a model of timm or torchvision does not give `dim` features, as a run says that it did.

    On torch's meta device, where tensors have shapes and no memory: a network of a billion weights, which would take
    4 GB and half a minute to build, takes a second. A network that does not take its own size tells nothing.
    untrained: with random weights, which the run has us draw: a file of weights cannot refuse a giant then.
    """
    if not backbone.startswith(LIBRARIES):
        return
    name, options = split_name(backbone)
    with torch.device("meta"), torch.inference_mode():
        architecture = build_with(name, options, checkpoint=None)
        size = architecture.preprocessing.size
        try:
            features = architecture.network.eval()(torch.empty(1, 3, size, size)).shape[-1]
        except (AssertionError, RuntimeError):
            return
    if features != dim:
        raise InputError(f"{backbone} gives {features} features, not the {dim} that the run was trained on: the run "
                         "was altered, or made by another version of its library")
    count = sum(parameter.numel() for parameter in architecture.network.parameters())
    if untrained and count > MOST_DRAWN:
        raise InputError(f"{backbone} with random weights is {count / 1e6:,.0f} million numbers, which mean nothing: "
                         "extract the faces into a store with `extract`, and give that")


def check_fit(backbone: str, path: Path) -> None:
    """Raises InputError for a weights file whose names and shapes are not this network's, which is not built for it."""
    checkpoint, _ = without_ours(read_checkpoint(path))
    name, options = split_name(backbone)
    with torch.device("meta"):
        built = build_with(name, options, checkpoint=checkpoint)
    if not built.resized:  # else positions are resampled until they fit
        renamed = {built.rename(entry): tensor for entry, tensor in checkpoint.tensors.items()}
        require_shapes(built.network, replace(checkpoint, tensors=renamed), heads=built.heads)

"""How many features a model of a library gives, found without building it: a stranger's name costs nothing."""

import torch

from twofold.data.errors import InputError
from twofold.extract.networks.libraries import build_with
from twofold.extract.networks.preprocessing_options import split_name

LIBRARIES = ("timm:", "torchvision:")


def check_width(backbone: str, dim: int) -> None:
    """Raises InputError if a model of timm or torchvision does not give `dim` features, as a run says that it did.

    On torch's meta device, where tensors have shapes and no memory: a network of a billion weights, which would take
    4 GB and half a minute to build, takes a second. A network that does not take its own size tells nothing.
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

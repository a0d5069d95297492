"""A network before its weights are loaded: what a source of backbones builds."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from twofold.extract.encoders.classifier import LinearLayer, single_linear_layer
from twofold.extract.encoders.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network that turns (B, 3, S, S) into (B, D), not yet loaded.

    heads: prefixes of classifier entries that a weights file may hold besides; own_head: prefix of those that
    `network` itself has but the embedding does not need; classifier: makes one layer of these entries; trim: after
    loading, turns `network` into what the forward pass needs; rename: from the weights file's names to the network's;
    resized: the user asked for another input size, so that weights may have to be fitted.
    """

    name: str  #: as the recipe records it, `torchvision.mobilenet_v2`
    network: nn.Module
    tap: str
    preprocessing: Preprocessing
    heads: tuple[str, ...]
    trim: Callable[[nn.Module], nn.Module] = lambda network: network
    rename: Callable[[str], str] = lambda name: name
    own_head: str = "\0"
    classifier: Callable[..., LinearLayer | None] = single_linear_layer
    resized: bool = False

"""A network before its weights are loaded (Architecture), and with them, ready to embed images (Encoder)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.recipe import Piece
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import LinearLayer, single_linear_layer
from twofold.extract.encoders.devices import PRECISIONS, is_out_of_memory
from twofold.extract.encoders.preprocessing import Preprocessing

FIRST_TRY = {"cpu": 16, "cuda": 256, "mps": 64}  # more gains nothing, on a CPU even loses (caches)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network that turns (B, 3, S, S) into (B, D), not yet loaded.

    heads: prefixes of classifier entries that a weights file may hold besides; own_head: prefix of those that
    `network` itself has but the embedding does not need; classifier: makes one layer of these entries; trim: after
    loading, turns `network` into what the forward pass needs; rename: from the weights file's names to the network's;
    resized: the user asked for another input size, so that weights may have to be fitted; classes: of the classifier,
    in order, where its source says it; entries: the checkpoint's, where the source itself renames them.
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
    classes: tuple[str, ...] = ()
    entries: Mapping[str, torch.Tensor] | None = None


@dataclass
class BatchLimit:
    """The largest batch that is tried: halved when the device runs out of memory, and remembered."""

    size: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """One backbone, loaded: (B, S, S, 3) uint8 images made by `preprocessing.prepare` to (B, dim) float32."""

    name: str
    architecture: str
    weights: str  #: `sha256:<hex>` over the tensors that are used, or `random:<seed>`
    tap: str
    dim: int
    preprocessing: Preprocessing
    precision: str
    classifier: BackboneClassifier | None = field(default=None, repr=False)  #: what the checkpoint brought along
    pieces: tuple[Piece, ...] = ()  #: what stands side by side in an embedding of layers or tokens
    unnamed_classes: int = 0  #: of a classifier that is left out, since nobody says in which order its classes are
    device: torch.device
    network: Callable[[torch.Tensor], torch.Tensor] = field(repr=False)
    limit: BatchLimit

    @property
    def untrained(self) -> bool:
        """True for random weights."""
        return self.weights.startswith("random:")

    @property
    def batch_size(self) -> int:
        """Images in one forward pass, as far as is known; smaller once memory has run out."""
        return self.limit.size

    def encode(self, images: torch.Tensor | np.ndarray) -> np.ndarray:
        """Embed any number of images, in order: (B, S, S, 3) uint8 to (B, dim) float32.

        Raises InputError if not even one fits the device.
        """
        return self.embed(torch.from_numpy(images) if isinstance(images, np.ndarray) else images).cpu().numpy()

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The same, in batches that fit, left on the device; on a card it is under way when this returns."""
        blocks, start = [], 0
        while start < len(images):
            batch = images[start:start + self.limit.size]
            try:
                blocks.append(self._forward(batch))
                start += len(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise InputError(f"backbone {self.name} does not fit into the memory of {self.device} with even "
                                     "one face: use another device, or a lower precision") from None
                self.limit.size = len(batch) // 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        if len(blocks) == 1:
            return blocks[0]
        return torch.cat(blocks) if blocks else torch.empty((0, self.dim))

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8, which is (B, 3, S, S) channels-last in memory already, normalised and embedded.

        fp32 means fp32: without the flag, cuDNN computes convolutions in TF32, with ten bits of mantissa; and a
        caller's autocast does not reach in here.
        """
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)
        scale, shift = self._normalisation
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), exact:
            pixels = images.to(self.device, non_blocking=True).float()
            pixels = pixels.mul_(scale).sub_(shift).to(PRECISIONS[self.precision]).permute(0, 3, 1, 2)
            return self.network(pixels).float()

    @cached_property
    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """On the device, once: to send numbers there with each batch would make the host wait for the one before."""
        mean, std = (torch.tensor(values, dtype=torch.float32, device=self.device)
                     for values in (self.preprocessing.mean, self.preprocessing.std))
        return self.preprocessing.scale / std, mean / std

"""Position embeddings of a vision transformer for another size of its input than that of its weights."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import nn

POSITIONS = "pos_embed"


def fitting_positions(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors with position embeddings (1, P + T, D) resampled to the network's grid, and what was done in words.

    P prefix tokens stay as they are, the square of T patches is resampled (bicubic, antialiased: timm's own helper).
    As they are, with an empty text, where they fit or are none of such a network: strict loading speaks then.
    """
    vit: Any = network
    theirs, ours = tensors.get(POSITIONS), getattr(network, POSITIONS, None)
    if theirs is None or ours is None or not hasattr(network, "patch_embed") or theirs.shape == ours.shape:
        return dict(tensors), ""
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    side = isqrt(max(0, theirs.shape[1] - prefix)) if theirs.ndim == 3 else 0
    if theirs.shape[2:] != ours.shape[2:] or side < 1 or side * side + prefix != theirs.shape[1]:
        return dict(tensors), ""
    from timm.layers.pos_embed import resample_abs_pos_embed

    high, wide = vit.patch_embed.grid_size
    resampled = resample_abs_pos_embed(theirs.float(), [high, wide], num_prefix_tokens=prefix)
    return {**tensors, POSITIONS: resampled}, f"position embeddings resampled from {side} x {side} to {high} x {wide}"

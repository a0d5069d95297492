"""What a set of weights looks like, for the message that refuses it."""

from collections.abc import Mapping

import torch


def guess(tensors: Mapping[str, torch.Tensor]) -> str:
    """Finish the sentence "the file ..."."""
    return f"holds {len(tensors)} tensors"

"""The basic emotions that a checkpoint predicts itself, from its embeddings: the zero-shot path."""

from dataclasses import dataclass

import numpy as np

from twofold.data.errors import InputError


@dataclass(frozen=True, eq=False)
class Head:
    """The linear classifier of a checkpoint: weight (C, D), bias (C,), and the names of its classes where known."""

    weight: np.ndarray
    bias: np.ndarray
    classes: tuple[str, ...]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(B, D) embeddings to (B, C) float32 logits in the order of `classes`.

        Raises InputError where that order is not known, since the wrong one gives about 11 % accuracy.
        """
        if not self.classes:
            raise InputError(
                f"logits of {len(self.bias)} classes in an unknown order: convert the checkpoint with "
                "`weights convert IN -o OUT.safetensors --classes rafdb` (or caers, affectnet7), or give the file "
                "a name with its data set in it, as posterv2_rafdb.pth")
        return np.asarray(features, np.float32) @ self.weight.T + self.bias

"""Encoders as the tests load them, and what is in a published checkpoint."""

from pathlib import Path

import numpy as np
import torch

from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.registry import load_encoder


def load(name: str, weights: object, *, precision: str = "fp32", **more) -> Encoder:
    return load_encoder(name, weights=str(weights), device="cpu", precision=precision, **more)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def logits(encoder: Encoder, features: np.ndarray) -> np.ndarray:
    """Of the classifier that the weights brought along."""
    return features @ encoder.classifier.weight + encoder.classifier.bias

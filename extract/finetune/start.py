"""The network that a fine-tuning starts from, with its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from twofold.cache.format.taught import TaughtFaces
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.libraries import Architecture, build, check_name
from twofold.extract.encoders.random_weights import noise_pictures, seeded
from twofold.extract.encoders.registry import load_weights
from twofold.extract.finetune.learner import Learner, freeze
from twofold.extract.finetune.settings import Settings
from twofold.extract.weights.finetuned import taught_of
from twofold.extract.weights.load import digest

Entries = dict[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Start:
    """A learner and where it comes from. weights: `sha256:<hex>` or `random:<seed>`; entries: of the whole encoder as
    a weights file names them, unused ones too, each to be asked for when it is wanted; taught: whom it was taught with,
    if it was fine-tuned before."""

    name: str
    architecture: Architecture
    learner: Learner
    dim: int
    weights: str
    entries: Entries
    taught: TaughtFaces | None = None


def start(name: str, *, weights: str | None, folder: Path, settings: Settings) -> Start:
    """Build a backbone, load what it starts from and put new classifiers behind it.

    weights: a file, `random:SEED`, `hub` or None, as `extract` takes them. Raises InputError for an unknown name, an
    ONNX model, a size that the network does not allow, and weights that are not exactly its own.
    """
    if name.startswith("onnx:"):
        raise InputError(f"{name}: an ONNX model cannot be trained here: name the architecture, as timm:NAME, and its "
                         "weights")
    check_name(name)
    loaded = load_weights(name, weights, folder=folder,
                          build=partial(build, name, size=settings.size, drop_path=settings.drop_path))
    built = loaded.architecture
    if settings.drop_path and not any(hasattr(module, "drop_prob") for module in built.network.modules()):
        raise InputError(f"{name} has no paths to drop: leave out --drop-path (presets unified and compound set it)")
    entries = {loaded.names.get(entry, entry): value for entry, value in _entries(built.network).items()}
    encoder = built.trim(built.network)
    pictures = noise_pictures(built.preprocessing, torch.Generator().manual_seed(0))[:2]
    dim = _measured(encoder, name, pictures)
    with seeded(settings.seed):
        learner = Learner(encoder, dim, {target: len(names.classes) for target, names in settings.taxonomies.items()},
                          dropout=settings.dropout)
    freeze(learner, settings)
    taught = taught_of(loaded.checkpoint, loaded.ours) if loaded.checkpoint and loaded.ours else None
    return Start(name, built, learner, dim, loaded.drawn or digest(encoder), entries, taught)


def _entries(network: nn.Module) -> Entries:
    """The state of a network by name, wherever training or trimming moves its parts to."""
    def value(module: nn.Module, name: str) -> Callable[[], torch.Tensor]:
        return lambda: getattr(module, name).detach()

    state, entries = network.state_dict(), {}
    for prefix, module in network.named_modules():
        for name in [*module._parameters, *module._buffers]:
            full = f"{prefix}.{name}" if prefix else name
            if full in state:
                entries[full] = value(module, name)
    return entries


def _measured(encoder: nn.Module, name: str, pictures: torch.Tensor) -> int:
    encoder.eval()
    try:
        with torch.inference_mode():
            embedding = encoder(pictures)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = first_line(error, most=160)
        raise InputError(f"{name} does not take faces of {pictures.shape[-1]} pixels ({reason}): choose another "
                         "--size; 0 is the network's own") from None
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise InputError(f"backbone {name} does not give one vector a face, so it cannot be used here")
    return embedding.shape[1]

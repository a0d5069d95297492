"""The network that a fine-tuning starts from, with its weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from twofold.data.errors import InputError, first_line
from twofold.extract.finetune.settings import Settings
from twofold.extract.finetune.training.learner import Learner, freeze
from twofold.extract.networks.libraries import Architecture, build, check_name
from twofold.extract.networks.random_weights import draw_weights, noise_pictures, seeded
from twofold.extract.weights.find import find_weights
from twofold.extract.weights.finetuned import without_ours
from twofold.extract.weights.load import digest, load_strictly
from twofold.extract.weights.positions import fitting_positions
from twofold.extract.weights.read import read_checkpoint

Entries = dict[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Start:
    """A learner and where it comes from. weights: `sha256:<hex>` or `random:<seed>`; entries: of the whole encoder as
    a weights file names them, unused ones too, each to be asked for when it is wanted."""

    name: str
    architecture: Architecture
    learner: Learner
    dim: int
    weights: str
    entries: Entries


def start(name: str, *, weights: str | None, folder: Path, settings: Settings) -> Start:
    """Build a backbone, load what it starts from and put new classifiers behind it.

    weights: a file, `random:SEED`, `hub` or None, as `extract` takes them. Raises InputError for an unknown name, an
    ONNX model, a size that the network does not allow, and weights that are not exactly its own.
    """
    if name.startswith("onnx:"):
        raise InputError(f"{name}: an ONNX model cannot be trained here: name the architecture, as timm:NAME, and its "
                         "weights")
    check_name(name)
    if weights is not None and weights.startswith("random:"):
        built, identity, names = *_untrained(name, weights, settings), {}
    else:
        built, names = _trained(name, weights, folder, settings)
        identity = ""
    if settings.drop_path and not any(hasattr(module, "drop_prob") for module in built.network.modules()):
        raise InputError(f"{name} has no paths to drop: leave out --drop-path (presets unified and compound set it)")
    entries = {names.get(entry, entry): value for entry, value in _entries(built.network).items()}
    encoder = built.trim(built.network)
    pictures = noise_pictures(built.preprocessing, torch.Generator().manual_seed(0))[:2]
    dim = _measured(encoder, name, pictures)
    with seeded(settings.seed):
        learner = Learner(encoder, dim, {target: len(names.classes) for target, names in settings.taxonomies.items()},
                          dropout=settings.dropout)
    freeze(learner, settings)
    return Start(name, built, learner, dim, identity or digest(encoder), entries)


def _untrained(name: str, weights: str, settings: Settings) -> tuple[Architecture, str]:
    seed = weights.removeprefix("random:")
    if not seed.isdecimal() or int(seed) >= 2**63:
        raise InputError(f"weights {weights!r} of {name}: random:SEED wants a whole number, as random:0")
    with seeded(int(seed)):
        built = build(name, checkpoint=None, size=settings.size, drop_path=settings.drop_path)
    draw_weights(built.network, built.preprocessing, seed=int(seed))
    return built, f"random:{int(seed)}"


def _trained(name: str, weights: str | None, folder: Path, settings: Settings) -> tuple[Architecture, dict[str, str]]:
    """The loaded architecture, and how the weights file spells the network's names."""
    checkpoint, _ = without_ours(read_checkpoint(find_weights(name, weights=weights, folder=folder)))
    with seeded(0):  # what the constructors draw is thrown away
        built = build(name, checkpoint=checkpoint, size=settings.size, drop_path=settings.drop_path)
    names = {built.rename(entry): entry for entry in checkpoint.tensors}
    renamed = {name: checkpoint.tensors[entry] for name, entry in names.items()}
    if settings.size:
        renamed, _ = fitting_positions(built.network, renamed)
    load_strictly(built.network, replace(checkpoint, tensors=renamed), heads=built.heads)
    return built, names


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

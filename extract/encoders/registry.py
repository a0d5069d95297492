"""From the name of a backbone to an encoder: build, load or draw weights, make it fast."""

import os
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.layout import MAX_DIM
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.devices import PRECISIONS, parse_device, resolve_precision
from twofold.extract.encoders.encoder import FIRST_TRY, BatchLimit, Encoder
from twofold.extract.encoders.folding import fold_norms
from twofold.extract.encoders.libraries import Architecture, build_with, check_name
from twofold.extract.encoders.onnx.models import load_onnx
from twofold.extract.encoders.own_classifier import own_classifier
from twofold.extract.encoders.preprocessing_options import joined, split_name
from twofold.extract.encoders.random_weights import draw_weights, noise_pictures, seeded
from twofold.extract.weights.find import find_weights, weights_folder
from twofold.extract.weights.finetuned import classifier_of, without_ours
from twofold.extract.weights.load import digest, fitting_positions, load_strictly
from twofold.extract.weights.read import Checkpoint, read_checkpoint


def load_encoder(name: str, *, weights: str | None = None, device: str = "auto", precision: str = "auto",
                 folder: Path | None = None, batch_size: int = 0, compiled: bool = False,
                 classes: tuple[str, ...] = ()) -> Encoder:
    """Build a backbone, give it its weights and make it fast.

    name: a preset, timm:NAME, torchvision:NAME or onnx:PATH, with its preprocessing behind it where that is to be
    another one (`resnet50?size=112&mean=0.5`); weights: a file, `random:SEED`, `hub`, or None for the weights folder
    and then the hub; folder: the weights folder, by default that of TWOFOLD_WEIGHTS or `weights/`; batch_size: the
    largest to try, 0 for the usual; compiled: let torch.compile at it (ONNX models stay as they are); classes: of the
    classifier that the weights bring, in their order, where the file does not say. Raises InputError for an unknown
    name, device or precision, weights that are not to be found, and weights that are not exactly this network's.
    """
    target = parse_device(device)
    if compiled and not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++")))):
        raise InputError("--compile needs a C++ compiler (g++ or clang++), which is not on this machine: leave it out")
    if name.startswith("onnx:"):
        if weights is not None:
            raise InputError(f"{name} brings its own weights: leave out --weights for it")
        return load_onnx(name, device=target, precision=precision, batch_size=batch_size)
    plain, options = split_name(name)
    check_name(plain)
    arithmetic = resolve_precision(precision, target)
    loaded = load_weights(plain, weights, folder=folder or weights_folder(), build=partial(build_with, plain, options))
    built, network = loaded.architecture, _ready(loaded.architecture)
    pictures = noise_pictures(built.preprocessing, torch.Generator().manual_seed(0))[:1]
    dim, identity = _measure(network, name, pictures), loaded.drawn or digest(network)
    classifier, unnamed = _classifier(loaded, plain, dim, classes)
    fold_norms(network, pictures)
    network.to(target, PRECISIONS[arithmetic]).to(memory_format=torch.channels_last)
    return Encoder(
        name=joined(plain, options), architecture=", ".join(filter(None, (built.name, loaded.resampled))),
        weights=identity, tap=built.tap, dim=dim, preprocessing=built.preprocessing, precision=arithmetic,
        device=target, network=torch.compile(network) if compiled else network,
        limit=BatchLimit(batch_size or FIRST_TRY[target.type]), classifier=classifier, unnamed_classes=unnamed)


def load_network(name: str, *, weights: str | None = None, folder: Path | None = None) -> nn.Module:
    """The network as its library builds it, with its weights: what `load_encoder` makes fast. For comparisons."""
    plain, options = split_name(name)
    build = partial(build_with, plain, options)
    return _ready(load_weights(plain, weights, folder=folder or weights_folder(), build=build).architecture)


class Build(Protocol):
    """Builds a network for what will be loaded into it, None for random weights."""

    def __call__(self, *, checkpoint: Checkpoint | None) -> Architecture: ...


@dataclass(frozen=True)
class Loaded:
    """A network as its library builds it, with its weights.

    drawn: `random:SEED`, or empty; names: of the network's entries, how the weights file spells them; head: entries of
    the classifier, by name, that came with them; ours: what `finetune` wrote besides; resampled: positions, in words.
    """

    architecture: Architecture
    drawn: str = ""
    names: dict[str, str] = field(default_factory=dict)
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    ours: dict[str, torch.Tensor] = field(default_factory=dict)
    resampled: str = ""


def load_weights(name: str, weights: str | None, *, folder: Path, build: Build) -> Loaded:
    """Build a network and give it random weights or exactly those of a file; weights, folder: as of `load_encoder`.

    Raises InputError for a seed that is none, and weights that are not to be found or not exactly this network's.
    """
    if weights is not None and weights.startswith("random:"):
        seed = weights.removeprefix("random:")
        if not seed.isdecimal() or int(seed) >= 2**63:
            raise InputError(f"weights {weights!r} of {name}: random:SEED wants a whole number, as random:0")
        with seeded(int(seed)):
            built = build(checkpoint=None)
        draw_weights(built.network, built.preprocessing, seed=int(seed))
        return Loaded(built, f"random:{int(seed)}")
    checkpoint, ours = without_ours(read_checkpoint(find_weights(name, weights=weights, folder=folder)))
    with seeded(0):  # what the constructors draw is thrown away
        built = build(checkpoint=checkpoint)
    names = {built.rename(entry): entry for entry in checkpoint.tensors}
    tensors, resampled = {entry: checkpoint.tensors[spelled] for entry, spelled in names.items()}, ""
    if built.resized:
        tensors, resampled = fitting_positions(built.network, tensors)
    left_over = load_strictly(built.network, replace(checkpoint, tensors=tensors), heads=built.heads)
    head = {entry: tensor for entry, tensor in tensors.items()
            if entry in left_over or entry.startswith(built.own_head)}
    return Loaded(built, "", names, head, checkpoint, ours, resampled)


def _classifier(loaded: Loaded, name: str, dim: int,
                classes: tuple[str, ...]) -> tuple[BackboneClassifier | None, int]:
    """What the weights bring along, or None and of how many classes it is where nobody says their order."""
    if loaded.checkpoint is None:
        return None, 0
    learned = classifier_of(loaded.checkpoint, loaded.ours)
    if learned and not classes:
        return learned, 0
    layer = loaded.architecture.classifier(loaded.head, dim=dim)
    return own_classifier(name, layer, loaded.checkpoint, classes=classes)


def _ready(built: Architecture) -> nn.Module:
    return built.trim(built.network).eval().requires_grad_(False)


def _measure(network: nn.Module, name: str, pictures: torch.Tensor) -> int:
    """Length of an embedding, found by making some. Raises InputError if the network gives anything but (B, D)."""
    try:
        with torch.inference_mode():
            embedding = network(pictures)
    except (RuntimeError, AssertionError) as error:  # a network of fixed input size, and another in its options
        raise InputError(f"backbone {name} does not run on pictures of side {pictures.shape[-1]}: "
                         f"{first_line(error)}") from None
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise InputError(f"backbone {name} does not give one vector a face, so it cannot be used here")
    if embedding.shape[1] > MAX_DIM:
        raise InputError(f"backbone {name} gives {embedding.shape[1]} numbers a face: {MAX_DIM} is the most that a "
                         "feature file may have")
    return embedding.shape[1]

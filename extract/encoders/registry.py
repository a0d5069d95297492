"""From the name of a backbone to an encoder: build the network, load or draw its weights, make it fast."""

import contextlib
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from twofold.cache.user_block import MAX_DIM
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.classifier import (
    checkpoint_classifier,
    finetuned_classifier,
    preprocessing_of,
    split_entries,
)
from twofold.extract.encoders.devices import PRECISIONS, parse_device, resolve_precision
from twofold.extract.encoders.encoder import FIRST_TRY, Architecture, BatchLimit, Encoder
from twofold.extract.encoders.folding import fold_batch_norms
from twofold.extract.encoders.layers import with_pieces
from twofold.extract.encoders.onnx import load_onnx, onnx_name
from twofold.extract.encoders.preprocessing import (
    ENTRY,
    LAYERS,
    TOKENS,
    Preprocessing,
    apply_options,
    join_name,
    split_name,
)
from twofold.extract.encoders.presets import find_preset, published_weights, recorded_name, source_of
from twofold.extract.weights.find import find_weights, weights_folder
from twofold.extract.weights.load import (
    check_shapes,
    load_strictly,
    resample_position_embeddings,
    weights_digest,
    without_wrapper,
)
from twofold.extract.weights.read import Checkpoint, read_checkpoint

log = logging.getLogger(__name__)

Build = Callable[..., Architecture]  #: from `checkpoint=`: what will be loaded, None for random weights
RUN_ERRORS = (RuntimeError, AssertionError, ValueError)  #: of a network that does not take the size in its options
MAX_RANDOM_PARAMETERS = 150_000_000  #: that a run may ask for: 600 MB, more than any of the presets has


@contextlib.contextmanager
def float32_default() -> Iterator[None]:
    """Compute in float32 on the CPU, where networks are built; a notebook may have set another dtype or device, or
    autocast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


@float32_default()
def load_encoder(name: str, *, weights: str | None = None, device: str = "auto", precision: str = "auto",
                 folder: Path | None = None, batch_size: int = 0, compiled: bool = False,
                 classes: tuple[str, ...] = ()) -> Encoder:
    """Build a backbone, load its weights and make it fast.

    name: a preset, timm:NAME, torchvision:NAME or onnx:PATH, perhaps with options (`resnet50?size=112&mean=0.5`);
    weights: a file, `random:SEED`, `hub`, or None for the weights folder and then the hub; folder: the weights folder;
    batch_size: the largest to try, 0 for the usual; compiled: use torch.compile (not for ONNX models); classes: of the
    classifier that the weights bring, in their order, where the file does not say. Raises InputError for an unknown
    name, device or precision, and weights that are not found or not exactly this network's.
    """
    target = parse_device(device)
    if compiled and not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++")))):
        raise InputError("--compile needs a C++ compiler (g++ or clang++), which is not on this machine: leave it out")
    entry, asked = find_preset(name.partition("?")[0]), re.search(f"[?&]({LAYERS}|{TOKENS})=", name)
    if asked and (name.startswith("onnx:") or (entry and entry.is_onnx)):
        raise InputError(f"{name}: an ONNX model gives its output alone: leave out {asked[1]}=, or name the "
                         "architecture, as timm:NAME, and its weights")
    if name.startswith("onnx:"):
        if weights is not None:
            raise InputError(f"{name} brings its own weights: leave out --weights for it")
        return load_onnx(name, device=target, precision=precision, batch_size=batch_size, classes=classes)
    plain, options = split_name(name)
    check_name(plain)
    if entry and entry.is_onnx:  # which has its own precision
        path = find_weights(published_weights(plain), weights=weights, folder=folder or weights_folder())
        how = apply_options(entry.preprocessing, options, name=plain).record()
        return load_onnx(onnx_name(path, how), device=target, precision="auto", batch_size=batch_size,
                         classes=classes or entry.class_order(path.name, 8))
    resolved = resolve_precision(precision, target)
    loaded = load_weights(name, weights, folder=folder or weights_folder(), build=partial(build, name))
    built = loaded.architecture
    network = built.trim(built.network).eval().requires_grad_(False)
    noise = noise_images(built.preprocessing, torch.Generator().manual_seed(0))
    images, pieces = noise[:1], ()
    dim, identity = embedding_dim(network, name, images), loaded.random or weights_digest(network)
    classifier, unnamed, checkpoint = None, 0, loaded.checkpoint
    if checkpoint is not None:
        classifier = None if classes else finetuned_classifier(checkpoint, loaded.extra)
    if checkpoint is not None and classifier is None:
        preset, layer = find_preset(plain), built.classifier(loaded.head, dim=dim)
        classifier, unnamed = checkpoint_classifier(plain, layer, checkpoint, classes=classes, order_of_file=(
            preset.class_order if preset else lambda _, count: built.classes if len(built.classes) == count else ()))
    fold_batch_norms(network, images)
    if LAYERS in options or TOKENS in options:
        network, pieces = with_pieces(network, plain, options, noise[:2])
        dim = _row_length(sum(width for _, width in pieces), name)
        classifier = classifier and classifier.widened([piece for piece, _ in pieces], dim)
    network.to(target, PRECISIONS[resolved]).to(memory_format=torch.channels_last)
    return Encoder(
        name=join_name(recorded_name(plain), options),
        architecture=", ".join(filter(None, (built.name, loaded.resampled))),
        weights=identity, tap=built.tap, dim=dim, preprocessing=built.preprocessing, precision=resolved,
        device=target, network=torch.compile(network) if compiled else network,
        limit=BatchLimit(batch_size or FIRST_TRY[target.type]), classifier=classifier, unnamed_classes=unnamed,
        pieces=pieces)


# ------------------------------------------------------------------------------------------------- architecture
def check_name(name: str) -> None:
    """Raise InputError, saying what there is, unless `name` names a preset or a model of a source."""
    source, rest = source_of(name)
    source.check_name(rest)


def build(name: str, *, checkpoint: Checkpoint | None, size: int = 0, drop_path: float = 0.0) -> Architecture:
    """Build the network of a backbone's name, not yet loaded. Raises InputError if it cannot be an encoder here.

    name: one that `check_name` accepts, perhaps with options; checkpoint: what will be loaded, which tells variants
    apart (the number of classes, the preprocessing of published or fine-tuned weights); None for random weights; size:
    another side of the input, the whole face in it, where the network allows it; drop_path: for training.
    """
    plain, options = split_name(name)
    if "size" in options:
        size = apply_options(Preprocessing(size=1, resize=1), options, name=plain).size
    learned = preprocessing_of(checkpoint)
    source, rest = source_of(plain)
    built = source.build(rest, checkpoint=checkpoint, size=size or (learned.size if learned else 0),
                         drop_path=drop_path)
    how = learned or built.preprocessing
    how = replace(how, size=size, resize=size) if size else how
    return replace(built, preprocessing=apply_options(how, options, name=plain),
                   resized=built.resized or size > 0)


def embedding_dim(network: nn.Module, name: str, images: torch.Tensor) -> int:
    """Length of an embedding, measured. Raises InputError if the network gives anything but (B, D)."""
    try:
        with torch.inference_mode():
            embedding = network(images)
    except RUN_ERRORS as error:
        raise _does_not_run(name, images.shape[-1], error) from None
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise InputError(f"backbone {name} does not give one vector a face, so it cannot be used here")
    return _row_length(embedding.shape[1], name)


def _row_length(dim: int, name: str) -> int:
    if dim > MAX_DIM:
        raise InputError(f"backbone {name} gives {dim} numbers a face: {MAX_DIM} is the most that a feature file may "
                         "have")
    return dim


def _does_not_run(name: str, side: int, error: Exception) -> InputError:
    return InputError(f"backbone {name} does not run on pictures of side {side}: {first_line(error, most=160)}: choose "
                      "another size")


def check_dim(backbone: str, dim: int, *, untrained: bool = False) -> None:
    """Raise InputError if a model of a library does not give `dim` features, as a run says that it did.

    On torch's meta device, where tensors have shapes and no memory, so that a giant costs nothing. A network that does
    not take its own size tells nothing. untrained: with random weights, which are drawn here.
    """
    if ":" not in backbone or backbone.startswith("onnx:"):
        return
    with torch.device("meta"), torch.inference_mode():
        architecture = build(backbone, checkpoint=None)
        size = architecture.preprocessing.size
        try:
            features = architecture.network.eval()(torch.empty(1, 3, size, size)).shape[-1]
        except RUN_ERRORS:
            return
    if features != dim and not {LAYERS, TOKENS} & split_name(backbone)[1].keys():  # whose pieces the recipe names
        raise InputError(f"{backbone} gives {features} features, not the {dim} that the run was trained on: the run "
                         "was altered, or made by another version of its library")
    count = sum(parameter.numel() for parameter in architecture.network.parameters())
    if untrained and count > MAX_RANDOM_PARAMETERS:
        raise InputError(f"{backbone} with random weights is {count / 1e6:,.0f} million numbers, which mean nothing: "
                         "extract the faces into a store with `extract`, and give that")


def check_fit(backbone: str, path: Path) -> None:
    """Raise InputError for a weights file whose names and shapes are not this network's, without building it."""
    if backbone.startswith("hf:"):  # transformers renames entries only as it loads them
        return
    entry = split_name(backbone)[1].get(ENTRY, "")
    checkpoint, _ = split_entries(read_checkpoint(path, entry=entry))
    with torch.device("meta"):
        built, checkpoint = _build_for(checkpoint, partial(build, backbone))
    if not built.resized:  # else positions are resampled until they fit
        renamed = built.entries or {built.rename(entry): tensor for entry, tensor in checkpoint.tensors.items()}
        check_shapes(built.network, replace(checkpoint, tensors=renamed), heads=built.heads)


# ------------------------------------------------------------------------------------------------------- weights
@dataclass(frozen=True)
class LoadedNetwork:
    """A network as its library builds it, with its weights.

    random: `random:SEED`, or empty; names: of the network's entries, how the weights file spells them; head: entries
    of the classifier, by name, that came with them; extra: what `finetune` wrote besides; resampled: what was done to
    position embeddings, in words.
    """

    architecture: Architecture
    random: str = ""
    names: dict[str, str] = field(default_factory=dict)
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    resampled: str = ""


def load_weights(name: str, weights: str | None, *, folder: Path, build: Build) -> LoadedNetwork:
    """Build a network and give it random weights or exactly those of a file; weights, folder: as of `load_encoder`.

    Raises InputError for an invalid seed, and weights that are not found or not exactly this network's.
    """
    if weights is not None and weights.startswith("random:"):
        seed = weights.removeprefix("random:")
        if not re.fullmatch("[0-9]{1,19}", seed) or int(seed) >= 2**63:
            raise InputError(f"weights {weights!r} of {name}: random:SEED wants a whole number, as random:0")
        with seeded(int(seed)):
            built = build(checkpoint=None)
        try:
            init_random_weights(built.network, built.preprocessing, seed=int(seed))
        except RUN_ERRORS as error:
            raise _does_not_run(name, built.preprocessing.size, error) from None
        return LoadedNetwork(built, f"random:{int(seed)}")
    plain, options = split_name(name)
    path = find_weights(published_weights(plain), weights=weights, folder=folder)
    checkpoint, extra = split_entries(read_checkpoint(path, entry=options.get(ENTRY, "")))
    with seeded(0):  # the constructors' random numbers are not used
        built, checkpoint = _build_for(checkpoint, build)
    _say_choice(checkpoint, plain)
    names = {built.rename(entry): entry for entry in checkpoint.tensors}
    tensors = dict(built.entries or {entry: checkpoint.tensors[spelled] for entry, spelled in names.items()})
    resampled = ""
    if built.resized:
        tensors, resampled = resample_position_embeddings(built.network, tensors)
    left_over = load_strictly(built.network, replace(checkpoint, tensors=tensors), heads=built.heads)
    head = {entry: tensor for entry, tensor in tensors.items()
            if entry in left_over or entry.startswith(built.own_head)}
    return LoadedNetwork(built, "", names, head, checkpoint, extra, resampled)


def _build_for(checkpoint: Checkpoint, build: Build) -> tuple[Architecture, Checkpoint]:
    """The network for a checkpoint, and the checkpoint with the network's names."""
    built = build(checkpoint=checkpoint)
    unwrapped = without_wrapper(built.network, checkpoint, heads=built.heads, rename=built.rename)
    if unwrapped is not checkpoint:
        built = build(checkpoint=unwrapped)
    if unwrapped.others:
        built = replace(built, name=f"{built.name}, weights of {unwrapped.container or 'the file itself'}")
    return built, unwrapped


def _say_choice(checkpoint: Checkpoint, name: str) -> None:
    if checkpoint.others:
        taken = f"under {checkpoint.container!r}" if checkpoint.container else "of the file itself"
        log.info("%s holds several sets of weights: those %s are taken; %s?%s=%s takes the others%s",
                 checkpoint.path.name, taken, name, ENTRY, checkpoint.others[0],
                 f" (or {', '.join(checkpoint.others[1:4])})" if checkpoint.others[1:] else "")
    if checkpoint.unread:
        log.info("%s also holds an average of the weights that cannot be read by name, under %s: it is not used",
                 checkpoint.path.name, " and ".join(map(repr, checkpoint.unread)))


# ------------------------------------------------------- random weights, with which embeddings differ between faces
@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU random numbers depend on `seed` alone; afterwards they go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset the state of GPUs
        yield


def init_random_weights(network: nn.Module, preprocessing: Preprocessing, *, seed: int) -> None:
    """Give a network on the CPU weights that depend on `seed` alone: for demonstrations and tests, never for results.

    Convolutions and linear layers get He-normal weights, and batch norms the statistics that noise images, as
    `preprocessing` gives them, have in front of them, so that signals neither vanish nor explode however deep the
    network is. Other parameters stay as the constructor drew them.
    """
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
            nn.init.normal_(module.weight, std=math.sqrt(gain / math.prod(module.weight.shape[1:])), generator=draw)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.02, generator=draw)
    images = noise_images(preprocessing, draw)
    norms = {module: module.momentum for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)}
    if norms:
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        with torch.no_grad():
            network(images)
        for norm, momentum in norms.items():
            norm.momentum = momentum
            norm.eval()


def noise_images(how: Preprocessing, draw: torch.Generator) -> torch.Tensor:
    """(4, 3, S, S): normalised images of smooth noise, as bright and as contrasty as photographs."""
    coarse = torch.randn((4, 3, 8, 8), generator=draw)
    smooth = nn.functional.interpolate(coarse, size=(how.size, how.size), mode="bilinear")
    return how.normalize((128 + 64 * smooth + 16 * torch.randn(smooth.shape, generator=draw)).clamp(0, 255))

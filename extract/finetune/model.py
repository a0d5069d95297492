"""The network that is trained: an encoder with its initial weights, and a linear classifier for each target."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twofold.cache.classifier import TrainingSamples
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.finetuned import training_samples_of
from twofold.extract.encoders.random_weights import noise_images, seeded
from twofold.extract.encoders.registry import build, check_name, load_weights
from twofold.extract.finetune.settings import Settings
from twofold.extract.weights.load import weights_digest


class Classifier(nn.Module):
    """(B, 3, S, S) to logits (B, C): the classes of each target side by side, in the order of `widths`."""

    def __init__(self, encoder: nn.Module, dim: int, widths: Mapping[str, int], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({target: _linear(dim, width) for target, width in widths.items()})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding = self.dropout(self.encoder(images))
        return torch.cat([head(embedding) for head in self.heads.values()], dim=1)

    def no_weight_decay(self) -> set[str]:
        """Names that timm keeps weight decay away from."""
        own: Callable[[], Collection[str]] | None = getattr(self.encoder, "no_weight_decay", None)
        return {f"encoder.{name}" for name in (own() if own else ())}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Which layer a parameter belongs to, as timm's layer-wise decay asks for it."""
        return layers_of(self).__getitem__


def _linear(dim: int, width: int) -> nn.Linear:
    layer = nn.Linear(dim, width)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def layers_of(model: Classifier) -> dict[str, int]:
    """The number of the layer of each parameter, from the input on; the linear classifiers are in the last.

    A timm network says itself what its layers are. Of others they are the children that hold parameters, a child
    with more than half of them being seen as its own children.
    """
    encoder = model.encoder
    names = [name for name, _ in encoder.named_parameters()]
    if hasattr(encoder, "group_matcher"):
        numbers, last = _timm_layers(encoder, names)
    else:
        units = _units(encoder)
        numbers = {name: next(i for i, unit in enumerate(units) if name == unit or name.startswith(f"{unit}."))
                   for name in names}
        last = len(units)
    layers = {f"encoder.{name}": numbers[name] for name in names}
    return layers | {name: last for name, _ in model.named_parameters() if name.startswith("heads.")}


def _timm_layers(encoder: nn.Module, names: Sequence[str]) -> tuple[dict[str, int], int]:
    from timm.models._manipulate import group_with_matcher

    classifier = getattr(encoder, "pretrained_cfg", {}).get("classifier") or "head"
    head = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    describe: Callable[..., Any] = getattr(encoder, "group_matcher")  # noqa: B009 (what timm's networks bring)
    numbers: Any = group_with_matcher(((name, None) for name in [*names, head]), describe(coarse=False), reverse=True)
    return {name: numbers[name] for name in names}, numbers[head]


def _units(module: nn.Module, prefix: str = "") -> list[str]:
    total = _size(module)
    names = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        if _size(child):
            inner = 2 * _size(child) > total and len([part for part in child.children() if _size(part)]) > 1
            names += _units(child, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def freeze(model: Classifier, settings: Settings) -> None:
    """Train only what `settings.train` names, and the linear classifiers. Raises InputError for too many layers."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if settings.train == "all":
        return
    layers = layers_of(model)
    numbers = sorted({place for name, place in layers.items() if name.startswith("encoder.")})
    count = 0 if settings.train == "head" else int(settings.train.removeprefix("last:"))
    if count > len(numbers):
        raise InputError(f"train {settings.train!r}: the network has {len(numbers)} layers; use --train all")
    trained = set(numbers[len(numbers) - count:])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("heads.") or layers[name] in trained)


def set_training_mode(model: Classifier, settings: Settings) -> None:
    """Training mode for what is trained: frozen parts and, where asked for, batch norms keep their statistics."""
    model.train()
    for module in model.encoder.modules():
        own = list(module.parameters())
        frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
        if frozen or (settings.frozen_norms and isinstance(module, nn.modules.batchnorm._BatchNorm)):
            module.eval()


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A classifier before training and where its weights come from.

    weights: `sha256:<hex>` or `random:<seed>`; entries: of the whole encoder as a weights file names them, unused ones
    too, each read when it is called; training_samples: those of the fine-tuning that the weights come from, if any.
    """

    name: str
    architecture: Architecture
    model: Classifier
    weights: str
    entries: dict[str, Callable[[], torch.Tensor]]
    training_samples: TrainingSamples | None = None


def initial_model(name: str, *, weights: str | None, folder: Path, settings: Settings) -> InitialModel:
    """Build a backbone, load its initial weights and put new linear classifiers behind it.

    weights: a file, `random:SEED`, `hub` or None, as `extract` takes them. Raises InputError for an unknown name, an
    ONNX model, a size that the network does not allow, and weights that are not exactly its own.
    """
    if name.startswith(("onnx:", "hf:")):
        raise InputError(f"{name}: an ONNX model cannot be trained here, nor one of transformers: name the "
                         "architecture, as timm:NAME, and its weights")
    check_name(name)
    loaded = load_weights(name, weights, folder=folder,
                          build=partial(build, name, size=settings.size, drop_path=settings.drop_path))
    built = loaded.architecture
    if settings.drop_path and not any(hasattr(module, "drop_prob") for module in built.network.modules()):
        raise InputError(f"{name} has no paths to drop: leave out --drop-path (presets unified and compound set it)")
    entries = {loaded.names.get(entry, entry): value for entry, value in _entries(built.network).items()}
    encoder = built.trim(built.network)
    dim = _embedding_dim(encoder, name, noise_images(built.preprocessing, torch.Generator().manual_seed(0))[:2])
    with seeded(settings.seed):
        model = Classifier(encoder, dim, {target: len(names.classes) for target, names in settings.taxonomies.items()},
                           dropout=settings.dropout)
    freeze(model, settings)
    samples = training_samples_of(loaded.checkpoint, loaded.extra) if loaded.checkpoint and loaded.extra else None
    return InitialModel(name, built, model, loaded.random or weights_digest(encoder), entries, samples)


def _entries(network: nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
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


def _embedding_dim(encoder: nn.Module, name: str, images: torch.Tensor) -> int:
    encoder.eval()
    try:
        with torch.inference_mode():
            embedding = encoder(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = first_line(error, most=160)
        raise InputError(f"{name} does not take images of {images.shape[-1]} pixels ({reason}): choose another "
                         "--size; 0 is the network's own") from None
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise InputError(f"backbone {name} does not give one vector an image, so it cannot be used here")
    return embedding.shape[1]

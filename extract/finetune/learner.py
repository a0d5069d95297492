"""The network that learns: an encoder and a linear classifier for each target."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.finetune.settings import Settings


class Learner(nn.Module):
    """(B, 3, S, S) to logits (B, C): the classes of each target side by side, in the order of `widths`."""

    def __init__(self, encoder: nn.Module, dim: int, widths: Mapping[str, int], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({target: _classifier(dim, width) for target, width in widths.items()})

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        embedding = self.dropout(self.encoder(pictures))
        return torch.cat([head(embedding) for head in self.heads.values()], dim=1)

    def no_weight_decay(self) -> set[str]:
        """Names that timm keeps weight decay away from."""
        own: Callable[[], Collection[str]] | None = getattr(self.encoder, "no_weight_decay", None)
        names = own() if own else ()
        return {f"encoder.{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Which layer a parameter belongs to, as timm's layer-wise decay asks for it."""
        return layers_of(self).__getitem__


def _classifier(dim: int, width: int) -> nn.Linear:
    layer = nn.Linear(dim, width)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def layers_of(learner: Learner) -> dict[str, int]:
    """The number of the layer of each parameter, from the input on; the classifiers are in the last.

    A timm network says itself what its layers are. Of others they are the children that hold parameters, a child
    with more than half of them being seen as its own children.
    """
    encoder = learner.encoder
    names = [name for name, _ in encoder.named_parameters()]
    if hasattr(encoder, "group_matcher"):
        places = _timm_layers(encoder, names)
    else:
        units = _units(encoder)
        places = {name: next(i for i, unit in enumerate(units) if name.startswith(f"{unit}.") or name == unit)
                  for name in names}
        places["\0head"] = len(units)
    layers = {f"encoder.{name}": places[name] for name in names}
    return layers | {name: places["\0head"] for name, _ in learner.named_parameters() if name.startswith("heads.")}


def _timm_layers(encoder: nn.Module, names: Sequence[str]) -> dict[str, int]:
    from timm.models._manipulate import group_with_matcher

    classifier = getattr(encoder, "pretrained_cfg", {}).get("classifier") or "head"
    head = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    describe: Callable[..., Any] = getattr(encoder, "group_matcher")  # noqa: B009 (what timm's networks bring)
    matcher = describe(coarse=False)
    places: Any = group_with_matcher(((name, None) for name in [*names, head]), matcher, reverse=True)
    return {name: places[name] for name in names} | {"\0head": places[head]}


def _units(module: nn.Module, prefix: str = "") -> list[str]:
    total = _size(module)
    names: list[str] = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        if _size(child):
            inner = 2 * _size(child) > total and len([part for part in child.children() if _size(part)]) > 1
            names += _units(child, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def freeze(learner: Learner, settings: Settings) -> None:
    """Let learn only what `settings.train` names; the classifiers always do. Raises InputError for too many layers."""
    for parameter in learner.parameters():
        parameter.requires_grad_(True)
    if settings.train == "all":
        return
    layers = layers_of(learner)
    kinds = sorted({place for name, place in layers.items() if name.startswith("encoder.")})
    count = 0 if settings.train == "head" else int(settings.train.removeprefix("last:"))
    if count > len(kinds):
        raise InputError(f"train {settings.train!r}: the network has {len(kinds)} layers; use --train all")
    learning = set(kinds[len(kinds) - count:])
    for name, parameter in learner.named_parameters():
        parameter.requires_grad_(name.startswith("heads.") or layers[name] in learning)


def training_mode(learner: Learner, settings: Settings) -> None:
    """Training mode for what learns: frozen parts and, where asked for, batch norms keep their statistics."""
    learner.train()
    for module in learner.encoder.modules():
        own = list(module.parameters())
        frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
        if frozen or (settings.frozen_norms and isinstance(module, nn.modules.batchnorm._BatchNorm)):
            module.eval()

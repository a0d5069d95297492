"""What is trained, and how: an encoder with a linear classifier for each target, the layers, rates, the optimiser."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm import optim as timm_optim
from torch import nn, optim

from twofold.cache.classifier import TrainingSamples
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import training_samples_of
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.preprocessing import LAYERS, TOKENS, split_name
from twofold.extract.encoders.registry import build, check_name, embedding_dim, load_weights, noise_images, seeded
from twofold.extract.finetune import lora
from twofold.extract.finetune.settings import Settings
from twofold.extract.weights.load import weights_digest


# ------------------------------------------------------------------------------------------------------- network
class Classifier(nn.Module):
    """(B, 3, S, S) to logits (B, C): the classes of each target side by side, in the order of `widths`."""

    def __init__(self, encoder: nn.Module, dim: int, widths: Mapping[str, int], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict()
        for target, width in widths.items():
            self.heads[target] = head = nn.Linear(dim, width)
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding = self.dropout(self.encoder(images))
        return torch.cat([head(embedding) for head in self.heads.values()], dim=1)

    def no_weight_decay(self) -> set[str]:
        """Names that timm keeps weight decay away from."""
        own: Any = getattr(self.encoder, "no_weight_decay", set)
        return {f"encoder.{name}" for name in own()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Which layer a parameter belongs to, as timm's layer-wise decay asks for it."""
        return layers_of(self).__getitem__


def layers_of(model: Classifier) -> dict[str, int]:
    """The number of the layer of each parameter, from the input on; the linear classifiers are in the last.

    A timm network says itself what its layers are. Of others they are the children that hold parameters, a child
    with more than half of them being seen as its own children.
    """
    encoder: Any = model.encoder
    names = [name for name, _ in encoder.named_parameters()]
    if hasattr(encoder, "group_matcher"):
        from timm.models._manipulate import group_with_matcher

        classifier = getattr(encoder, "pretrained_cfg", {}).get("classifier") or "head"
        head = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
        numbers: Any = group_with_matcher(((name, None) for name in [*names, head]),
                                          encoder.group_matcher(coarse=False), reverse=True)
        last = numbers[head]
    else:
        units = _units(encoder)
        numbers = {name: next(i for i, unit in enumerate(units) if f"{name}.".startswith(f"{unit}.")) for name in names}
        last = len(units)
    heads = {name: last for name, _ in model.named_parameters() if name.startswith("heads.")}
    return {f"encoder.{name}": numbers[name] for name in names} | heads


def _units(module: nn.Module, prefix: str = "") -> list[str]:
    def size(part: nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    names = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        if size(child):
            inner = 2 * size(child) > size(module) and sum(size(part) > 0 for part in child.children()) > 1
            names += _units(child, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names


def freeze(model: Classifier, train: str) -> None:
    """Train the linear classifiers and all, last:N or head of the encoder. Raises InputError for too many layers."""
    model.requires_grad_(True)
    if train == "all":
        return
    layers = layers_of(model)
    numbers = sorted({place for name, place in layers.items() if name.startswith("encoder.")})
    count = 0 if train == "head" else int(train.removeprefix("last:"))
    if count > len(numbers):
        raise InputError(f"train {train!r}: the network has {len(numbers)} layers; use --train all")
    trained = numbers[len(numbers) - count:]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("heads.") or layers[name] in trained)


def has_depthwise_convolutions(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 for module in model.modules())


def set_training_mode(model: Classifier, settings: Settings) -> None:
    """Training mode for what is trained: frozen parts and, where asked for, batch norms keep their statistics."""
    model.train()
    for module in model.encoder.modules():
        own = list(module.parameters())
        frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
        if frozen or (settings.frozen_norms and isinstance(module, nn.modules.batchnorm._BatchNorm)):
            module.eval()


def _checkpoint_activations(model: Classifier, name: str, settings: Settings) -> None:
    """Let the network compute its activations anew in the backward pass. Raises InputError where it cannot."""
    frozen = settings.frozen_norms or settings.train.startswith(lora.PREFIX)
    if not frozen and any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in model.encoder.modules()):
        raise InputError("checkpointing: batch norms would count each batch twice: use --frozen-norms")
    encoder: Any = model.encoder
    try:
        encoder.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):  # timm's, where a network cannot
        raise InputError(f"{name} cannot compute activations anew: leave out --checkpointing") from None


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A classifier before training and where its weights come from.

    weights: `sha256:<hex>` or `random:<seed>`; entries: of the whole encoder as a weights file names them, unused ones
    too: the module and its attribute; training_samples: those of the fine-tuning that the weights come from, if any.
    """

    architecture: Architecture
    model: Classifier
    weights: str
    entries: dict[str, tuple[nn.Module, str]]
    training_samples: TrainingSamples | None


def initial_model(name: str, *, weights: str | None, folder: Path, settings: Settings, widths: Mapping[str, int]
                  ) -> InitialModel:
    """Build a backbone, load its initial weights and put new linear classifiers behind it.

    weights: a file, `random:SEED`, `hub` or None, as `extract` takes them; widths: outputs of each target. Raises
    InputError for an unknown name, an ONNX model, a size that the network does not allow, and weights that are not
    exactly its own.
    """
    if name.startswith(("onnx:", "hf:")):
        raise InputError(f"{name}: an ONNX model cannot be trained here, nor one of transformers: name the "
                         "architecture, as timm:NAME, and its weights")
    if asked := {LAYERS, TOKENS} & split_name(name)[1].keys():
        raise InputError(f"{name}: leave out {min(asked)}=, which `extract` takes: training reads the embedding")
    check_name(name)
    loaded = load_weights(name, weights, folder=folder,
                          build=partial(build, name, size=settings.size, drop_path=settings.drop_path))
    built = loaded.architecture
    if settings.drop_path and not any(hasattr(module, "drop_prob") for module in built.network.modules()):
        raise InputError(f"{name} has no paths to drop: leave out --drop-path (presets unified and compound set it)")
    state = built.network.state_dict()
    entries: dict[str, tuple[nn.Module, str]] = {}
    for prefix, module in built.network.named_modules():  # wherever training or trimming moves it to
        for entry in [*module._parameters, *module._buffers]:
            full = f"{prefix}.{entry}" if prefix else entry
            if full in state:
                entries[loaded.names.get(full, full)] = module, entry
    encoder = built.trim(built.network).eval()
    images = noise_images(built.preprocessing, torch.Generator().manual_seed(0))[:2]
    dim = embedding_dim(encoder, name, images)
    identity = loaded.random or weights_digest(encoder)
    with seeded(settings.seed):
        model = Classifier(encoder, dim, widths, dropout=settings.dropout)
        if settings.checkpointing:
            _checkpoint_activations(model, name, settings)
        if settings.train.startswith(lora.PREFIX):
            lora.add_adapters(encoder, int(settings.train.removeprefix(lora.PREFIX)), images, name)
        else:
            freeze(model, settings.train)
    samples = training_samples_of(loaded.checkpoint, loaded.extra) if loaded.checkpoint and loaded.extra else None
    return InitialModel(built, model, identity, entries, samples)


# ----------------------------------------------------------------------------------------------------- optimiser
def learning_rate(settings: Settings, epoch: float, scores: Sequence[float]) -> float:
    """The learning rate at a moment, before layer decay: a pure function, so that a resumed training goes on alike.

    epoch: epochs done, with their fraction; scores: validation score after each whole epoch so far.
    Warm-up is linear from 0; cosine is min + (lr - min) (1 + cos(pi t)) / 2, t being the fraction done of what follows
    warm-up (as MAE's fine-tuning does it, arXiv 2111.06377, table 9). Where `lr_batch` is given the rate is scaled
    linearly with the batch. (timm's schedulers would do, but for plateau, whose state its checkpoints lose.)
    """
    full = settings.lr * settings.batch_size / settings.lr_batch if settings.lr_batch else settings.lr
    if epoch < settings.warmup:
        return full * epoch / settings.warmup
    if settings.schedule == "cosine":
        done = (epoch - settings.warmup) / max(settings.epochs - settings.warmup, 1e-9)
        return settings.min_lr + (full - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if settings.schedule == "step":
        return full * settings.lr_factor ** (int(epoch) // settings.step_epochs)
    if settings.schedule == "plateau":
        best, waited, plateaus = -math.inf, 0, 0  #: how often the best score has stood for more than `patience` epochs
        for score in scores:
            best, waited = (score, 0) if score > best else (best, waited + 1)
            if waited > settings.patience:
                plateaus, waited = plateaus + 1, 0
        return max(settings.min_lr, full * settings.lr_factor ** plateaus)
    return full


def build_optimizer(model: Classifier, settings: Settings, *, fused: bool = False) -> optim.Optimizer:
    """timm's Adam or AdamW over what is trained; each group has `lr_scale`, its factor of the rate. fused: in one pass,
    on a CPU in a quarter of the time, with another rounding."""
    grouped: Any = timm_optim.param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
    if settings.layer_decay != 1.0:
        grouped = partial(timm_optim.param_groups_layer_decay,  # pyright: ignore[reportPrivateImportUsage]
                          layer_decay=settings.layer_decay)
    groups = grouped(model, settings.weight_decay, no_weight_decay_list=model.no_weight_decay())
    options: dict[str, Any] = {"fused": True} if fused else {}
    return timm_optim.create_optimizer_v2(  # pyright: ignore[reportPrivateImportUsage]
        groups, opt=settings.optimizer, lr=settings.lr, weight_decay=0.0, **options)

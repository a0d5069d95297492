"""From the name of a backbone to a network without its classifier, and the preprocessing it expects."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.own_classifier import Layer, last_layer
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.encoders.preprocessing_options import with_options
from twofold.extract.encoders.presets import CAFFE_PIXELS, Preset, preset
from twofold.extract.encoders.published.ferplus_resnet import is_caffe, torchvision_name, with_caffe_strides
from twofold.extract.weights.finetuned import preprocessing_of
from twofold.extract.weights.read import Checkpoint, file_sha256

log = logging.getLogger(__name__)

VIT_SIZE, VIT_PATCH = 224, 16  #: pixels


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network that turns (B, 3, S, S) into (B, D), not yet loaded.

    heads: prefixes of entries that a weights file may hold besides, the classifier that was taken off; own_head: of
    those that `network` itself has but the embedding does not need; classifier: makes one layer of these entries;
    trim: after loading, turns `network` into what the forward pass needs and lets the rest go; rename: from the
    weights file's names to the network's; resized: for a size that was asked for: weights may have to be fitted.
    """

    name: str  #: as the recipe records it, `torchvision.mobilenet_v2`
    network: nn.Module
    tap: str
    preprocessing: Preprocessing
    heads: tuple[str, ...]
    trim: Callable[[nn.Module], nn.Module] = lambda network: network
    rename: Callable[[str], str] = lambda name: name
    own_head: str = "\0"
    classifier: Callable[..., Layer | None] = last_layer
    resized: bool = False


def check_name(name: str) -> None:
    """Raises InputError, saying what there is, unless `name` names a preset or a model of timm or torchvision."""
    kind, colon, rest = name.partition(":")
    if colon and kind == "timm":
        import timm

        try:
            exists = timm.get_pretrained_cfg(rest) is not None or timm.is_model(rest)
        except RuntimeError as error:  # a tag that the model does not have
            raise InputError(f"timm has no model {rest!r}: {error}") from None
        if not exists:
            raise InputError(f"timm has no model {rest!r}: see timm.list_models()")
    elif colon and kind == "torchvision":
        from torchvision import models

        if rest not in models.list_models(module=models):
            raise InputError(f"torchvision has no classification model {rest!r}: see torchvision.models.list_models()")
    else:
        preset(name)


def build(name: str, *, checkpoint: Checkpoint | None, size: int = 0, drop_path: float = 0.0) -> Architecture:
    """Build the network of a backbone's name, not yet loaded. Raises InputError if it cannot be an encoder here.

    name: one that `check_name` accepts; checkpoint: what will be loaded, which tells variants apart (the number of
    classes, the preprocessing that published or fine-tuned weights were trained with); None for untrained weights;
    size: another side of the input, the whole face in it, where the network allows it; drop_path: of training.
    """
    learned = preprocessing_of(checkpoint)
    side = size or (learned.size if learned else 0)
    kind, colon, rest = name.partition(":")
    if colon and kind == "timm":
        built = _timm(rest, size=side, drop_path=drop_path)
    elif colon and kind == "torchvision":
        built = _torchvision(rest, None if learned else checkpoint)
    else:
        built = _preset(preset(name), checkpoint, side, drop_path)
    how = learned or built.preprocessing
    return replace(built, preprocessing=replace(how, size=size, resize=size) if size else how, resized=size > 0)


def build_with(name: str, options: Mapping[str, str], *, checkpoint: Checkpoint | None) -> Architecture:
    """The same, its preprocessing as the options behind the name say (see `preprocessing_options`)."""
    side = with_options(Preprocessing(size=1, resize=1), options, name=name).size if "size" in options else 0
    built = build(name, checkpoint=checkpoint, size=side)
    return replace(built, preprocessing=with_options(built.preprocessing, options, name=name))


def _preset(backbone: Preset, checkpoint: Checkpoint | None, size: int, drop_path: float) -> Architecture:
    def declared(network: nn.Module, **rest: Any) -> Architecture:
        return Architecture(name=backbone.architecture, network=network, tap=backbone.tap,
                            preprocessing=backbone.preprocessing, heads=backbone.heads, **rest)

    match backbone.name:
        case "vit_mae":
            fine_tuned = checkpoint is not None and "fc_norm.weight" in checkpoint.tensors and \
                "norm.weight" not in checkpoint.tensors
            built = declared(_vit(size, drop_path, fine_tuned=fine_tuned))
            return replace(built, tap="norm of the mean of patch tokens (fc_norm)") if fine_tuned else built
        case "posterv2":
            from twofold.extract.encoders.published.posterv2 import PosterV2

            head = checkpoint.tensors.get("VIT.head.linear.weight") if checkpoint else None
            classes = 8 if head is not None and len(head) == 8 else 7  # any other number does not load strictly
            return declared(PosterV2(classes), trim=PosterV2.trimmed, own_head="VIT.head.")
        case "manet":
            from twofold.extract.encoders.published.manet import MANet, folded_heads

            return declared(MANet(), classifier=folded_heads)
        case "resnet18":
            return declared(_torchvision_trunk("resnet18")[0])
    built = declared(_torchvision_trunk("resnet50")[0])
    if backbone.name == "resnet50_conv5":
        built = replace(built, trim=Conv5)
    if checkpoint and is_caffe(checkpoint.tensors):
        return replace(built, name=f"{built.name}, strides of Caffe", network=with_caffe_strides(built.network),
                       preprocessing=CAFFE_PIXELS, rename=torchvision_name)
    return replace(built, preprocessing=preset("resnet50").preprocessing) if checkpoint else built


def _vit(size: int, drop_path: float, *, fine_tuned: bool) -> nn.Module:
    """ViT-B/16 whose output is the mean of the normed patch tokens, the class token left out.

    fine_tuned: as MAE's own fine-tuning leaves it, the mean is taken first, and normed after.
    """
    import timm

    if size % VIT_PATCH:
        raise InputError(f"vit_mae does not take faces of {size} pixels: its patches have {VIT_PATCH}, so choose a "
                         "multiple of that")
    pooling: dict[str, Any] = {"global_pool": "avg", "fc_norm": True} if fine_tuned else {}
    network: Any = timm.create_model("vit_base_patch16_224", num_classes=0, drop_path_rate=drop_path,
                                     img_size=size or VIT_SIZE, **pooling)
    network.global_pool = "avg"  # set after construction: given to it, timm would drop `norm` for another layer
    return network


class Conv5(nn.Module):
    """A ResNet-50 up to its last 3x3 convolution (normed, rectified), averaged over the map: (B, 512)."""

    def __init__(self, resnet: Any) -> None:
        super().__init__()
        last = resnet.layer4[2]
        self.body = nn.Sequential(
            resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, resnet.layer3,
            *resnet.layer4[:2], last.conv1, last.bn1, last.relu, last.conv2, last.bn2, last.relu,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


# -------------------------------------------------------------------------------------------------- torchvision
def _torchvision(name: str, checkpoint: Checkpoint | None) -> Architecture:
    network, heads = _torchvision_trunk(name)
    return Architecture(name=f"torchvision.{name}", network=network, tap="pooled features, classifier removed",
                        preprocessing=_torchvision_preprocessing(name, checkpoint), heads=heads)


def _torchvision_trunk(name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A torchvision classifier with everything from its first trained head layer on taken off."""
    from torchvision import models

    # what the two Inceptions do to their input when weights are asked for, which is how they were trained
    options = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    head = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    setattr(network, head, _without_classifier(getattr(network, head)))
    return network, (f"{head}.",)


def _without_classifier(head: nn.Module) -> nn.Module:
    """What stands before the first linear or convolution of a head (norms, flattening), and any pooling after it."""
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    kept = layers[:first] + [layer for layer in layers[first:] if isinstance(layer, nn.AdaptiveAvgPool2d)]
    return nn.Sequential(*kept)


def _torchvision_preprocessing(name: str, checkpoint: Checkpoint | None) -> Preprocessing:
    """The transform of the published weights that the checkpoint is, else of the model's first ones.

    torchvision names its files after the start of their SHA-256, so that a renamed file is still known; a converted
    one remembers its source.
    """
    from torchvision import models

    published = list(models.get_model_weights(name))
    weights = published[0]
    if checkpoint:
        digest = checkpoint.metadata.get("source_sha256") or file_sha256(checkpoint.path)
        matches = [weights for weights in published if f"-{digest[:8]}." in weights.url]
        weights = matches[0] if matches else weights
        if not matches and len({repr(weights.transforms()) for weights in published}) > 1:
            log.warning("%s is not a file that torchvision publishes for %s: preprocessing is that of %s",
                        checkpoint.path, name, weights.name)
    transform = weights.transforms()
    return Preprocessing(
        size=transform.crop_size[0], resize=transform.resize_size[0], interpolation=transform.interpolation.value,
        mean=tuple(transform.mean), std=tuple(transform.std),
    )


# --------------------------------------------------------------------------------------------------------- timm
def _timm(name: str, *, size: int = 0, drop_path: float = 0.0) -> Architecture:
    import timm

    network: Any = timm.create_model(name, num_classes=0, **_timm_options(name, size, drop_path))
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return Architecture(name=f"timm.{name}", network=network, tap="pooled features, classifier removed",
                        preprocessing=_timm_preprocessing(name, network), heads=tuple(f"{head}." for head in heads))


def _timm_options(name: str, size: int, drop_path: float) -> dict[str, Any]:
    """What a model of timm is built with: those that have position embeddings have to know the size of their input."""
    import timm

    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if size and timm.is_model(name.partition(".")[0]):
        try:
            timm.create_model(name, num_classes=0, img_size=size)
            options["img_size"] = size
        except TypeError:  # a network of convolutions takes any size
            pass
    return options


def _timm_preprocessing(name: str, network: nn.Module) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"timm:{name} wants {channels} x {height} x {width}: only square colour inputs are supported")
    rules = {"center": "shorter", "squash": "both", "border": "longer"}
    return Preprocessing(
        size=height, resize=int(height / config["crop_pct"]), rule=rules[config["crop_mode"]],
        interpolation=config["interpolation"], mean=tuple(config["mean"]), std=tuple(config["std"]),
    )

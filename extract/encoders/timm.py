"""Backbones `timm:NAME`: the models of timm, their classifier removed."""

from typing import Any

from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.weights.find import HUB_FILE, PublishedWeights, default_file
from twofold.extract.weights.read import Checkpoint


def check_name(name: str) -> None:
    """Raise InputError unless timm has a model, and a tag, of that name."""
    import timm

    try:
        exists = timm.get_pretrained_cfg(name) is not None or timm.is_model(name)
    except RuntimeError as error:  # a tag that the model does not have
        raise InputError(f"timm has no model {name!r}: {error}") from None
    if not exists:
        raise InputError(f"timm has no model {name!r}: see timm.list_models()")


def published(name: str) -> PublishedWeights:
    """The repository on the hub that timm names, if any."""
    import timm

    config = timm.get_pretrained_cfg(name)
    backbone = f"timm:{name}"
    return PublishedWeights(backbone=backbone, files=(default_file(backbone),), hub=(config and config.hf_hub_id) or "",
                            hub_file=(config and config.hf_hub_filename) or HUB_FILE)


def licence(name: str) -> str:
    """What timm states for its own weights of a model."""
    import timm

    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    stated = config.license if config and config.has_weights else None
    return f"{stated}, for timm's own weights" if stated else ""


def build(name: str, *, checkpoint: Checkpoint | None, size: int, drop_path: float) -> Architecture:
    """The model without its classifier."""
    import timm

    network: Any = timm.create_model(name, num_classes=0, **_options(name, size, drop_path))
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return Architecture(name=f"timm.{name}", network=network, tap="pooled features, classifier removed",
                        preprocessing=_preprocessing(name, network), heads=tuple(f"{head}." for head in heads))


def _options(name: str, size: int, drop_path: float) -> dict[str, Any]:
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


def _preprocessing(name: str, network: nn.Module) -> Preprocessing:
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

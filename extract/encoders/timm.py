"""Backbones `timm:NAME`: the models of timm, their classifier removed."""

from typing import Any

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Architecture
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.weights.find import HUB_FILE, PublishedWeights, default_file
from twofold.extract.weights.read import Checkpoint

RULES = {"center": "shorter", "squash": "both", "border": "longer"}  #: of resizing, by timm's crop mode


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
    """The repository on the hub that timm names, if any, and the licence that it states for its own weights."""
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    licence = config.license if config and config.has_weights else None
    backbone = f"timm:{name}"
    return PublishedWeights(backbone=backbone, files=(default_file(backbone),), hub=(config and config.hf_hub_id) or "",
                            hub_file=(config and config.hf_hub_filename) or HUB_FILE,
                            licence=f"{licence}, for timm's own weights" if licence else "")


def build(name: str, *, checkpoint: Checkpoint | None, size: int, drop_path: float) -> Architecture:
    """The model without its classifier. One with position embeddings is built for the size of its input."""
    import timm
    from timm.data.config import resolve_model_data_config

    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if size and timm.is_model(name.partition(".")[0]):
        try:
            timm.create_model(name, num_classes=0, img_size=size)
            options["img_size"] = size
        except TypeError:  # a network of convolutions takes any size
            pass
    network: Any = timm.create_model(name, num_classes=0, **options)
    config = resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"timm:{name} wants {channels} x {height} x {width}: only square colour inputs are supported")
    how = Preprocessing(
        size=height, resize=int(height / config["crop_pct"]), rule=RULES[config["crop_mode"]],
        interpolation=config["interpolation"], mean=tuple(config["mean"]), std=tuple(config["std"]))
    heads = network.pretrained_cfg.get("classifier") or ()
    return Architecture(name=f"timm.{name}", network=network, tap="pooled features, classifier removed",
                        preprocessing=how, heads=tuple(_removed(network, head) for head in
                                                       ([heads] if isinstance(heads, str) else heads)))


def _removed(network: Any, layer: str) -> str:
    """The prefix of what was removed with a classifier's last layer: of LeViT its batch norm, too, of MetaFormer all of
    an MLP."""
    while (parent := layer.rpartition(".")[0]) and not any(entry.startswith(f"{parent}.")
                                                           for entry in network.state_dict()):
        layer = parent
    return f"{layer}."

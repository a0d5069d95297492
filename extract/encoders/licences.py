"""Under which licence an encoder's published weights are, as far as that is written down anywhere near."""

from collections.abc import Iterable

from twofold.extract.encoders.presets import PRESETS


def licences(backbones: Iterable[str]) -> dict[str, str]:
    """The licence of each backbone for which one is stated: in the table of presets, or by timm of its own weights.

    Of weights from elsewhere (torchvision states none for its weights, an ONNX file has no place for one) nothing is
    known.
    """
    of_presets = {preset.name: preset.licence for preset in PRESETS}
    licence_of = {}
    for backbone in backbones:
        name = backbone.partition("?")[0]
        licence = _timm_licence(name.removeprefix("timm:")) if name.startswith("timm:") else of_presets.get(name)
        if licence:
            licence_of[backbone] = licence
    return licence_of


def _timm_licence(name: str) -> str:
    import timm

    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    licence = config.license if config and config.has_weights else None
    return f"{licence}, for timm's own weights" if licence else ""

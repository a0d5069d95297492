"""Where the weights of a backbone are: named by the user, in the weights folder, or on the hub."""

import logging
import os
from pathlib import Path

from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.weights_files import hub_file, weights_folder
from twofold.extract.encoders.presets import PRESETS, Preset

HUB_FILE = "model.safetensors"  #: as hubs call it, unless the library says otherwise
log = logging.getLogger(__name__)
__all__ = ["find_weights", "weights_folder"]


def find_weights(name: str, *, weights: str | None, folder: Path) -> Path:
    """The weights file of a backbone.

    weights: a path, `hub`, or None for the folder, then the hub. Raises InputError that says which file is wanted,
    where it comes from, under which licence, and where to put it.
    """
    if weights == "hub":
        return _from_hub(name, folder)
    if weights is not None:
        if not Path(weights).is_file():
            raise InputError(f"weights of {name}: {weights} is not a file (random:SEED and hub are the other choices)")
        return Path(weights)
    return in_folder(name, folder) or _from_hub(name, folder)


def in_folder(name: str, folder: Path) -> Path | None:
    """The weights file of a backbone in the weights folder, if there is one. Raises InputError if there are two."""
    files = [path for file in file_names(name) for path in (folder / file, (folder / file).with_suffix(".safetensors"))
             if path.is_file()]
    if len({path.stem for path in files}) > 1:
        raise InputError(f"weights of {name}: {' and '.join(map(str, files))} are both there: "
                         f"choose with --weights {name}=PATH")
    return files[-1] if files else None  # the converted file, where both are there: it loads faster


def file_names(name: str) -> tuple[str, ...]:
    """The names that a backbone's weights may have in the folder."""
    backbone = _preset(name)
    return (backbone.file, *backbone.also) if backbone else (f"{_plain(name).replace(':', '-').replace('/', '-')}.pth",)


def _plain(name: str) -> str:
    """The name of a backbone without the options behind it."""
    return name.partition("?")[0]


def _preset(name: str) -> Preset | None:
    return next((backbone for backbone in PRESETS if backbone.name == _plain(name)), None)


def _from_hub(name: str, folder: Path) -> Path:
    """Download, or find in the cache, what is published. Raises InputError if it is not, or cannot be reached."""
    try:
        if name.startswith("torchvision:"):
            return _torchvision_file(_plain(name).removeprefix("torchvision:"))
        repository, file = _hub_file(name)
        if repository:
            return hub_file(repository, file)
        reason = "they are not published on a hub"
    except InputError:
        raise
    except Exception as error:  # the network's, the hub's and the proxy's own kinds, none of them ours to tell apart
        log.debug("hub", exc_info=error)
        reason = f"the hub could not give them ({type(error).__name__}: {first_line(error, most=160)})"
    raise InputError(f"no weights for {name}: {reason}. {how_to_get(name, folder)}")


def how_to_get(name: str, folder: Path) -> str:
    """What to fetch, from where, under which licence, and where to put it; or how to do without."""
    backbone = _preset(name)
    wanted = folder / file_names(name)[0]
    without = f"or name another file with --weights {name}=PATH, or ask for --weights {name}=random:0 (untrained)"
    if backbone:
        return f"Get them from {backbone.page} (licence: {backbone.licence}), save them as {wanted}, {without}"
    return f"Save them as {wanted}, {without}"


def _hub_file(name: str) -> tuple[str, str]:
    """(repository, file) on the Hugging Face hub, or empty where it is not published there."""
    backbone = _preset(name)
    if backbone or not name.startswith("timm:"):
        return (backbone.hub if backbone else ""), HUB_FILE
    import timm

    config = timm.get_pretrained_cfg(_plain(name).removeprefix("timm:"))
    return (config and config.hf_hub_id) or "", (config and config.hf_hub_filename) or HUB_FILE


def _torchvision_file(name: str) -> Path:
    """torchvision's first published weights of a model, from its cache or its site, checked by their hash."""
    import torch
    from torchvision import models

    url = next(iter(models.get_model_weights(name))).url
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if target.is_file():
        return target
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConnectionError(f"HF_HUB_OFFLINE is set and {target} is not there")
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(target), hash_prefix=target.stem.rpartition("-")[2])
    return target

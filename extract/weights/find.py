"""Find the weights of a backbone: named by the user, in the weights folder, or published on the hub."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.weights_files import hub_file, weights_folder

HUB_FILE = "model.safetensors"  #: as the hub calls it, unless the library says otherwise
log = logging.getLogger(__name__)
__all__ = ["PublishedWeights", "find_in_folder", "find_weights", "fold_path", "fold_paths", "how_to_get",
           "weights_folder"]


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Where the weights of one backbone come from.

    backbone: its name; files: names that the weights folder is searched for (or the same with .safetensors); hub: the
    repository on the Hugging Face hub, if it is there; url, url_sha256: a stable address of the file elsewhere, and how
    its digest starts, if that is known; packaged: the file, where it comes with Twofold; download:
    fetches them from elsewhere; read_licence: where the licence has to be looked up.
    """

    backbone: str
    files: tuple[str, ...]
    page: str = ""
    licence: str = ""
    hub: str = ""
    hub_file: str = HUB_FILE
    url: str = ""
    url_sha256: str = ""
    packaged: Path | None = None
    download: Callable[[], Path] | None = None
    read_licence: Callable[[], str] = str


def default_file(backbone: str) -> str:
    """The name of the weights file of a backbone that is no preset, as `timm-resnet18.pth`."""
    return f"{backbone.replace(':', '-').replace('/', '-')}.pth"


def find_weights(published: PublishedWeights, *, weights: str | None, folder: Path) -> Path:
    """The weights file of a backbone.

    weights: a path, `hub`, or None for the folder, then the hub. Raises InputError that says which file is wanted,
    where it comes from, under which licence, and where to put it.
    """
    if weights == "hub":
        return _from_hub(published, folder)
    if weights is not None:
        if not Path(weights).is_file():
            raise InputError(f"weights of {published.backbone}: {weights} is not a file (random:SEED and hub are the "
                             "other choices)")
        return Path(weights)
    return find_in_folder(published, folder) or _from_hub(published, folder)


def find_in_folder(published: PublishedWeights, folder: Path) -> Path | None:
    """The weights file of a backbone in the weights folder, or that which comes with Twofold, if there is one. Raises
    InputError if there are two in the folder."""
    files = [path for file in published.files
             for path in (folder / file, (folder / file).with_suffix(".safetensors")) if path.is_file()]
    if len({path.stem for path in files}) > 1:
        raise InputError(f"weights of {published.backbone}: {' and '.join(map(str, files))} are both there: "
                         f"choose with --weights {published.backbone}=PATH")
    if files:
        return files[-1]  # the converted file, where both are there: it loads faster
    return published.packaged if published.packaged and published.packaged.is_file() else None


def _from_hub(published: PublishedWeights, folder: Path) -> Path:
    """Download, or find in the cache, what is published. Raises InputError if it is not, or cannot be reached."""
    try:
        if published.download:
            return published.download()
        if published.hub:
            return hub_file(published.hub, published.hub_file)
        reason = "they are not published on a hub"
    except Exception as error:  # the network's, the hub's and the proxy's own kinds, none of them ours to tell apart
        log.debug("hub", exc_info=error)
        reason = f"the hub could not give them ({type(error).__name__}: {first_line(error, most=160)})"
    raise InputError(f"no weights for {published.backbone}: {reason}. {how_to_get(published, folder)}")


def how_to_get(published: PublishedWeights, folder: Path) -> str:
    """What to fetch, from where, under which licence, and where to put it; or how to do without."""
    wanted, name = folder / published.files[0], published.backbone
    without = f"or name another file with --weights {name}=PATH, or ask for --weights {name}=random:0 (untrained)"
    if published.page:
        return f"Get them from {published.page} (licence: {published.licence}), save them as {wanted}, {without}"
    return f"Save them as {wanted}, {without}"


# ------------------------------------------------------------------------------- encoders fine-tuned one per fold
def fold_path(out: Path, fold: int, folds: int) -> Path:
    """Where the encoder of a fold is written, counted from 1 in the name. out: what `finetune --out` names."""
    return out.parent / f"{out.stem}.fold{fold + 1}of{folds}.safetensors"


def fold_paths(out: Path) -> list[Path]:
    """The encoders of every fold that `finetune --folds --out` wrote, in order; none where there are no folds of it.

    Raises InputError where a fold is missing, or where there are several sets of folds.
    """
    pattern = re.compile(re.escape(out.stem) + r"\.fold\d+of(\d+)\.safetensors")
    names = [path.name for path in out.parent.iterdir()] if out.parent.is_dir() else []
    counts = sorted({int(match[1]) for match in map(pattern.fullmatch, names) if match})
    if len(counts) > 1:
        raise InputError(f"{out}: there are encoders of {' and of '.join(map(str, counts))} folds: name their files")
    paths = [fold_path(out, fold, folds) for folds in counts for fold in range(folds)]
    missing = [path.name for path in paths if path.name not in names]
    if missing:
        raise InputError(f"{out}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: fine-tune "
                         "every fold first, or name the files that are there")
    return paths

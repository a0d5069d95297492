"""The header of a feature file: its root attributes, checked against each other, the recipe and the layout."""

import os
from dataclasses import dataclass

import h5py

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.format.index import brief, passing
from twofold.cache.format.layout import ATTRIBUTES, FEATURE_TYPES, FORMAT, FORMAT_VERSION, check_layout
from twofold.cache.recipe import Recipe


@dataclass(frozen=True)
class Checked:
    """What was found when a file was first opened. offsets: the byte at which each chunk of the features begins;
    identity: of the file itself, whatever its name."""

    header: dict[str, str | int]
    offsets: list[int]
    identity: tuple[int, str]


def check_header(file: h5py.File) -> Checked:
    """Look at all that can be looked at without reading values. Raises CacheError or DamagedFile, naming the file."""
    try:
        offsets = check_layout(file)
        header = {name: file.attrs[name] for name in ATTRIBUTES}
        header = {name: value if isinstance(value, str) else int(value) for name, value in header.items()}
        _require_agreement(header, file["features"])
        header["failed"] = file["failures/keys"].shape[0]
    except CacheError as error:
        raise type(error)(f"{file.filename}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise passing(error, file.filename) or DamagedFile(
            f"{file.filename}: the header does not read back ({brief(error)})") from None
    return Checked(header, offsets, identity(file))


def identity(file: h5py.File) -> tuple[int, str]:
    """What tells an open file from another one of the same name: its size, and the hash of keys and attributes.

    Not its inode or time, which some network file systems make up anew.
    """
    return os.fstat(file.id.get_vfd_handle()).st_size, file.attrs.get("index_sha256", "")


def _require_agreement(header: dict[str, str | int], features: h5py.Dataset) -> None:
    if header["format"] != FORMAT or header["format_version"] != FORMAT_VERSION:
        raise CacheError(f"format {header['format']!r} version {header['format_version']} is not "
                         f"{FORMAT!r} version {FORMAT_VERSION}: update Twofold, or extract again")
    recipe = Recipe.from_json(header["recipe"])
    if recipe.canonical() != header["recipe"] or recipe.fingerprint != header["fingerprint"]:
        raise CacheError("the recipe does not match its fingerprint: do not trust this file")
    if (recipe.backbone, recipe.view.get("name")) != (header["backbone"], header["view"]):
        raise CacheError("backbone or view is not the recipe's: do not trust this file")
    if features.shape != (header["rows"], header["dim"]):
        raise DamagedFile(f"/features is {features.shape}, not ({header['rows']}, {header['dim']})")
    if not features.id.get_type().equal(FEATURE_TYPES[recipe.dtype]):
        raise DamagedFile(f"/features is not stored as {recipe.dtype}, as the recipe says")

"""The header of a feature file, whatever its version: what it says of itself, checked against the recipe."""

from pathlib import Path
from typing import NoReturn, TypedDict

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.recipe import Recipe

FORMAT = "twofold-features"
FORMAT_VERSION = 2
BLOCK_OF_CHECKSUM = 256  #: rows that share a checksum
MAX_TEXT_BYTES = 4096  #: longest key or reason, in UTF-8
MAX_DIM = 1 << 15  #: the largest embedding in use has 4096 numbers
MAX_ROWS = 1 << 36
VERSION1_ATTRIBUTES = ("format", "format_version", "backbone", "view", "dim", "rows", "recipe", "fingerprint",
                       "created", "software", "index_sha256")


class Header(TypedDict):
    """What stands in front of the arrays. software: JSON; index_sha256: over header, keys, hashes and failures."""

    format: str
    format_version: int
    backbone: str
    view: str
    dim: int
    rows: int
    failed: int
    recipe: str
    fingerprint: str
    created: str
    software: str
    index_sha256: str


def require_agreement(header: Header) -> None:
    """Raise CacheError for another version, DamagedFile unless the types are right and all of it is the recipe's."""
    for name, kind in Header.__annotations__.items():
        if type(header.get(name)) is not kind:
            raise DamagedFile(f"{name} is neither one text nor one whole number, as it has to be")
    recipe = Recipe.from_json(header["recipe"])
    if recipe.canonical() != header["recipe"] or recipe.fingerprint != header["fingerprint"]:
        raise DamagedFile("the recipe does not match its fingerprint: do not trust this file")
    if (recipe.backbone, recipe.view.get("name")) != (header["backbone"], header["view"]):
        raise DamagedFile("backbone or view is not the recipe's: do not trust this file")
    if not 0 < header["dim"] <= MAX_DIM or not 0 <= header["rows"] <= MAX_ROWS or not 0 <= header["failed"] <= MAX_ROWS:
        raise DamagedFile(f"it claims {header['rows']} rows of {header['dim']} numbers; 1 to {MAX_DIM} are possible")


def refuse_version(path: Path, name: object, number: object) -> NoReturn:
    """Raise CacheError for what this code cannot read: it may be sound."""
    raise CacheError(f"{path}: format {str(name)[:40]!r} version {str(number)[:40]} is not {FORMAT!r} version 1 to "
                     f"{FORMAT_VERSION}: update Twofold, or extract again")

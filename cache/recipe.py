"""The recipe of a feature file: everything that the value of a feature depends on, and nothing else."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from twofold.cache.errors import CacheError

RECIPE_VERSION = 1
PRECISIONS = ("fp32", "bf16", "fp16")
DTYPES = ("float16", "float32")
EMBEDDING = "embedding"  #: the piece of a row of layers that is what the backbone gives without them
LAYERS = re.compile("(.*)([?&])layers=[^&]*")  #: a backbone's name whose last option asks for layers
Piece = tuple[Annotated[str, Meta(pattern=r"^[a-z0-9.]{1,40}$")], Annotated[int, Meta(ge=1, le=1 << 20)]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one backbone turns one view of a face crop into one embedding. Two feature files may be joined, merged or
    compared row by row only if their recipes are equal; a change of values without a change of recipe is a bug.
    Holds no path, time or host, so that it means the same everywhere."""

    backbone: str  #: the name that the user gave, as `timm:resnet18`
    architecture: str  #: what was built, as `timm.resnet18`
    weights: str  #: `sha256:<64 hex>` of the tensors used, or `random:<seed>`
    tap: str  #: the layer of the embedding, as `global_pool`
    preprocessing: dict[str, Any]  #: size, resize, interpolation, crop, mean, std
    view: dict[str, Any]  #: `{"name": "original"}` and the parameters of the view
    decoder: str  #: what decodes image files to RGB
    precision: Annotated[str, Meta(pattern=f"^({'|'.join(PRECISIONS)})$")]  #: arithmetic of the forward pass
    dtype: Annotated[str, Meta(pattern=f"^({'|'.join(DTYPES)})$")]  #: of the stored values
    version: int = RECIPE_VERSION
    pieces: tuple[Piece, ...] = ()  #: name and width of what stands side by side in a row; none: one embedding

    def record(self) -> dict[str, Any]:
        """The fields as JSON has them; without `pieces` where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "pieces" or value}

    def canonical(self) -> str:
        """The recipe as canonical JSON: sorted keys, no blanks, ASCII."""
        return json.dumps(self.record(), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    def shape(self, rows: int, dim: int) -> tuple[int, ...]:
        """Of the stored array: (rows, pieces, width) where all pieces are equally wide, else (rows, dim)."""
        widths = {width for _, width in self.pieces}
        return (rows, len(self.pieces), *widths) if len(widths) == 1 else (rows, dim)

    def columns(self, piece: str) -> slice:
        """Where a piece stands in a row. An embedding without pieces is the piece `embedding`; "" is the whole row."""
        start = 0
        for name, width in self.pieces if piece else ():
            if name == piece:
                return slice(start, start + width)
            start += width
        return slice(None)

    def of_pieces(self) -> dict[str, "Recipe"]:
        """For each piece of layers the recipe of that piece alone, which `NAME?layers=PIECE` makes; for `embedding` it
        is that of the plain `NAME`. Nothing for tokens."""
        named = LAYERS.fullmatch(self.backbone)
        return {piece: replace(self, backbone=f"{named[1]}{named[2]}layers={piece}", pieces=((piece, width),))
                if piece != EMBEDDING else replace(self, backbone=named[1], pieces=())
                for piece, width in self.pieces} if named else {}

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode("ascii")).hexdigest()[:16]

    @property
    def untrained(self) -> bool:
        """True if the weights are random numbers: every table of results must say so."""
        return self.weights.startswith("random:")

    def is_named(self, name: str) -> bool:
        """True for the backbone's `NAME`, and for `NAME@FINGERPRINT` with any number of the first digits."""
        backbone, _, digits = name.partition("@")
        return backbone == self.backbone and self.fingerprint.startswith(digits)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Recipe":
        """Read a recipe that anyone may have written. Raises CacheError unless it has the schema of this class."""
        try:
            recipe = msgspec.json.decode(text, type=cls)
            surplus = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).keys() - asdict(recipe).keys()
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise CacheError(f"not a recipe: {error}") from None
        if recipe.version != RECIPE_VERSION:
            raise CacheError(f"recipe version {recipe.version} is not {RECIPE_VERSION}: update Twofold")
        if len(dict(recipe.pieces)) < len(recipe.pieces):
            raise CacheError("not a recipe: two pieces have one name")
        if surplus or not isinstance(recipe.view.get("name"), str):
            raise CacheError(f"not a recipe: {f'unknown field {min(surplus)[:60]!r}' if surplus else 'no view name'}")
        return recipe


def differences(a: Recipe, b: Recipe) -> dict[str, tuple[object, object]]:
    """Fields that differ between two recipes, with both values; nested fields as `preprocessing.size`."""
    def flat(record: dict[str, Any], prefix: str = "") -> dict[str, object]:
        fields: dict[str, object] = {}
        for name, value in record.items():
            fields |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return fields

    left, right = flat(asdict(a)), flat(asdict(b))
    return {name: (left.get(name), right.get(name)) for name in left | right if left.get(name) != right.get(name)}

"""A recipe: everything that the value of a feature depends on, and nothing else."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from twofold.cache.errors import CacheError

RECIPE_VERSION = 1
PRECISIONS = ("fp32", "bf16", "fp16")
DTYPES = ("float16", "float32")
RECORDS = ("preprocessing", "view")  #: the fields that are records of their own; all others but `version` are texts


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one backbone turns one view of a face into one embedding.

    Two feature files may be joined, merged or compared row by row only if their recipes are equal; a change of
    values without a change of recipe is a bug. Holds no path, time or host, so that it means the same everywhere.
    """

    backbone: str  #: the name it was asked for by, as `timm:resnet18`
    architecture: str  #: what was built, as `timm.resnet18`
    weights: str  #: `sha256:<64 hex>` of the tensors used, or `random:<seed>`
    tap: str  #: where the embedding is taken, as `global_pool`
    preprocessing: dict  #: size, resize, interpolation, crop, mean, std
    view: dict  #: `{"name": "original"}` and the parameters of the view
    decoder: str  #: what turned bytes into RGB
    precision: str  #: arithmetic of the forward pass, one of `PRECISIONS`
    dtype: str  #: of the stored values, one of `DTYPES`
    version: int = RECIPE_VERSION

    def canonical(self) -> str:
        """The recipe as canonical JSON: sorted keys, no blanks, ASCII."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode("ascii")).hexdigest()[:16]

    @property
    def untrained(self) -> bool:
        """True if the weights are random numbers: figures made with them must say so."""
        return self.weights.startswith("random:")

    def is_named(self, name: str) -> bool:
        """True for the backbone's `NAME`, and for `NAME@FINGERPRINT` with any number of the first digits."""
        backbone, _, digits = name.partition("@")
        return backbone == self.backbone and self.fingerprint.startswith(digits)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe back. Raises CacheError if the text is not a recipe of a version this code knows."""
        try:
            record = json.loads(text)
            if record.get("version") != RECIPE_VERSION:
                raise CacheError(f"recipe version {record.get('version')} is not {RECIPE_VERSION}: update Twofold")
            recipe = cls(**record)
        except (TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
            raise CacheError(f"not a recipe: {error}") from None
        recipe._check_types()
        return recipe

    def _check_types(self) -> None:
        for field in fields(self):
            expected = type(field.default) if field.name == "version" else dict if field.name in RECORDS else str
            if type(getattr(self, field.name)) is not expected:
                raise CacheError(f"not a recipe: {field.name} is not {expected.__name__}")
        if self.precision not in PRECISIONS or self.dtype not in DTYPES:
            raise CacheError(f"not a recipe: precision {self.precision!r} or dtype {self.dtype!r} is unknown")


def differences(a: Recipe, b: Recipe) -> dict[str, tuple[object, object]]:
    """Field by field, what differs between two recipes; nested records as `preprocessing.size`."""
    left, right = _flat(asdict(a)), _flat(asdict(b))
    names = [*left, *(name for name in right if name not in left)]
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def _flat(record: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat

"""What differs between two feature files, or two stores: recipes, samples, images, values."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import BLOCK_ROWS, FeatureFile
from twofold.cache.recipe import differences
from twofold.cache.report import table
from twofold.cache.store import files_at


@dataclass(frozen=True)
class ValueDiff:
    """How far the rows of common keys lie apart. equal: number of bit-identical rows; largest: absolute difference;
    cosine: of a row and its partner."""

    equal: int
    largest: float
    mean_cosine: float
    least_cosine: float
    least_key: str


@dataclass(frozen=True)
class FileDiff:
    """Two files compared. recipe: field to both values; failures: key to both reasons; values: if comparable."""

    a: str
    b: str
    recipe: dict[str, tuple[object, object]]
    rows: tuple[int, int]
    only_a: list[str]
    only_b: list[str]
    changed_images: list[str]
    failures: dict[str, tuple[str, str]]
    common: int
    values: ValueDiff | None

    def text(self) -> str:
        lines = [f"{self.a}  ({self.rows[0]} samples)", f"{self.b}  ({self.rows[1]} samples)"]
        lines += ["  the same recipe"] if not self.recipe else [f"  {line}" for line in table(
            [("recipe", "A", "B"), *((name, str(left), str(right)) for name, (left, right) in self.recipe.items())])]
        lines += [f"  {len(keys)} samples {what} (the first is {keys[0]})" for what, keys in (
            ("only in A", self.only_a), ("only in B", self.only_b), ("of another image", self.changed_images),
            ("with another failure", list(self.failures))) if keys]
        return "\n".join([*lines, f"  {self._compared()}"])

    def _compared(self) -> str:
        values = self.values
        if values is None:
            return "no values to compare: no common samples" if not self.common else "values of different lengths"
        if values.equal == self.common:
            return f"{self.common} common samples: all values are equal"
        return (f"{self.common} common samples: {values.equal} equal; largest difference {values.largest:.3g}, cosine "
                f"{values.mean_cosine:.6f} on average, {values.least_cosine:.6f} at the least ({values.least_key})")


@dataclass(frozen=True)
class StoreDiff:
    """Two stores (or files) compared, file by file; files with no partner on the other side."""

    files: list[FileDiff]
    only_a: list[str]
    only_b: list[str]

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        single = [f"only in {side}: {name}" for side, names in (("A", self.only_a), ("B", self.only_b))
                  for name in names]
        return "\n\n".join([*(file.text() for file in self.files), *(["\n".join(single)] if single else [])]
                           ) or "no feature files in either"


def diff(a: Path, b: Path) -> StoreDiff:
    """Compare two feature files, or two stores: files of one recipe first, then those of one backbone and view.

    Raises CacheError if a path is neither, or one of each, or a file cannot be read.
    """
    left, right = files_at(a), files_at(b)
    if a.is_file() != b.is_file():
        raise CacheError(f"{a} and {b}: compare two stores, or two feature files")
    pairs = [(left.pop(), right.pop())] if a.is_file() else []
    for same in (lambda file: file.fingerprint, lambda file: (file.backbone, file.view)):
        for file in list(left):
            if partner := next((other for other in right if same(other) == same(file)), None):
                pairs.append((file, partner))
                left.remove(file)
                right.remove(partner)
    return StoreDiff([_compare(*pair) for pair in pairs], [file.path.name for file in left],
                     [file.path.name for file in right])


def _compare(a: FeatureFile, b: FeatureFile) -> FileDiff:
    common = [key for key in a.keys if key in b.position]
    reasons = {key: (a.failures.get(key, ""), b.failures.get(key, "")) for key in a.failures | b.failures}
    return FileDiff(
        a=str(a.path), b=str(b.path), recipe=differences(a.recipe, b.recipe), rows=(a.rows, b.rows),
        only_a=[key for key in a.keys if key not in b.position],
        only_b=[key for key in b.keys if key not in a.position],
        changed_images=[key for key in common if a.sha256[a.position[key]] != b.sha256[b.position[key]]],
        failures={key: pair for key, pair in reasons.items() if pair[0] != pair[1]},
        common=len(common), values=_compare_values(a, b, common) if common and a.dim == b.dim else None)


def _compare_values(a: FeatureFile, b: FeatureFile, keys: list[str]) -> ValueDiff:
    """Block by block: two files may be larger than memory."""
    equal, largest, cosines = 0, 0.0, []
    for start in range(0, len(keys), BLOCK_ROWS):
        left, right = (file.read(keys[start:start + BLOCK_ROWS]) for file in (a, b))
        distances = np.abs(left - right).max(axis=1)
        equal, largest = equal + int((distances == 0).sum()), max(largest, float(distances.max()))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        products = np.einsum("nd,nd->n", left, right, dtype=np.float64)
        cosines.append(np.where(distances == 0, 1.0, products / np.maximum(lengths, np.finfo(np.float32).tiny)))
    cosine = np.concatenate(cosines)
    least = int(cosine.argmin())
    return ValueDiff(equal, largest, float(cosine.mean()), float(cosine[least]), keys[least])

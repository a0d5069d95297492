"""What differs between two feature files, or two stores: recipes, faces, images, values."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import BLOCK_ROWS, FeatureFile
from twofold.cache.recipe import differences
from twofold.cache.report import table
from twofold.cache.store import files_at


@dataclass(frozen=True)
class Values:
    """How far the rows of common keys lie apart. cosine: of a row of one and its row of the other."""

    equal: int  #: rows that are the same in every bit of their values
    largest: float  #: absolute difference of one number
    mean_cosine: float
    least_cosine: float
    least_key: str


@dataclass(frozen=True)
class FileDiff:
    """Two files of one backbone and view. recipe: field to its value in each; values: None if not comparable."""

    a: str
    b: str
    recipe: dict[str, tuple[object, object]]
    rows: tuple[int, int]
    only_a: list[str]
    only_b: list[str]
    changed_images: list[str]
    failures: dict[str, tuple[str, str]]  #: key to its reason in each, where these differ
    common: int
    values: Values | None

    def text(self) -> str:
        lines = [f"{self.a}  ({self.rows[0]} faces)", f"{self.b}  ({self.rows[1]} faces)"]
        lines += ["  the same recipe"] if not self.recipe else [f"  {line}" for line in table(
            [("recipe", "A", "B"), *((name, str(left), str(right)) for name, (left, right) in self.recipe.items())])]
        for what, keys in (("only in A", self.only_a), ("only in B", self.only_b),
                           ("of another image", self.changed_images), ("failed otherwise", list(self.failures))):
            if keys:
                lines.append(f"  {len(keys)} faces {what} (the first is {keys[0]})")
        return "\n".join([*lines, f"  {self._compared()}"])

    def _compared(self) -> str:
        if self.values is None:
            return "no values to compare: no common faces" if not self.common else "values of different lengths"
        if self.values.equal == self.common:
            return f"{self.common} common faces: all values are equal"
        return (f"{self.common} common faces: {self.values.equal} equal; largest difference {self.values.largest:.3g}, "
                f"cosine {self.values.mean_cosine:.6f} on average, {self.values.least_cosine:.6f} at the least "
                f"({self.values.least_key})")


@dataclass(frozen=True)
class Difference:
    """Two stores (or files) compared, file by file; files with no partner on the other side."""

    files: list[FileDiff]
    only_a: list[str]
    only_b: list[str]

    def record(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        alone = [f"only in {side}: {name}" for side, names in (("A", self.only_a), ("B", self.only_b))
                 for name in names]
        return "\n\n".join([*(file.text() for file in self.files), *(["\n".join(alone)] if alone else [])]
                           ) or "no feature files in either"


def diff(a: Path, b: Path) -> Difference:
    """Compare two feature files, or two stores: files of one recipe first, then those of one backbone and view.

    Raises CacheError if a path is neither, or one of each, or a file cannot be read.
    """
    left, right = files_at(a), files_at(b)
    if a.is_file() != b.is_file():
        raise CacheError(f"{a} and {b}: compare two stores, or two feature files")
    pairs: list[tuple[FeatureFile, FeatureFile]] = [(left.pop(), right.pop())] if a.is_file() else []
    for same in (lambda file: file.fingerprint, lambda file: (file.backbone, file.view)):
        for file in list(left):
            if partner := next((other for other in right if same(other) == same(file)), None):
                pairs.append((file, partner))
                left.remove(file)
                right.remove(partner)
    return Difference([_compare(*pair) for pair in pairs], [file.path.name for file in left],
                      [file.path.name for file in right])


def _compare(a: FeatureFile, b: FeatureFile) -> FileDiff:
    common = [key for key in a.keys if key in b.position]
    before, after = ({key: file.sha256[file.position[key]] for key in common} for file in (a, b))
    failures = {key: (a.failures.get(key, ""), b.failures.get(key, "")) for key in {**a.failures, **b.failures}}
    return FileDiff(
        a=str(a.path), b=str(b.path), recipe=differences(a.recipe, b.recipe), rows=(a.rows, b.rows),
        only_a=[key for key in a.keys if key not in b.position],
        only_b=[key for key in b.keys if key not in a.position],
        changed_images=[key for key in common if before[key] != after[key]],
        failures={key: reasons for key, reasons in failures.items() if reasons[0] != reasons[1]},
        common=len(common), values=_values(a, b, common) if common and a.dim == b.dim else None)


def _values(a: FeatureFile, b: FeatureFile, keys: list[str]) -> Values:
    """Block by block: two files may be larger than memory."""
    equal, largest, cosines = 0, 0.0, []
    for start in range(0, len(keys), BLOCK_ROWS):
        block = keys[start:start + BLOCK_ROWS]
        left, right = a.read(block), b.read(block)
        distances = np.abs(left - right).max(axis=1)
        equal += int((distances == 0).sum())
        largest = max(largest, float(distances.max()))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        products = np.einsum("nd,nd->n", left, right, dtype=np.float64)
        cosines.append(np.where(distances == 0, 1.0, products / np.maximum(lengths, np.finfo(np.float32).tiny)))
    cosine = np.concatenate(cosines)
    least = int(cosine.argmin())
    return Values(equal, largest, float(cosine.mean()), float(cosine[least]), keys[least])

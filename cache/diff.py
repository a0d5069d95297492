"""What differs between two feature files, or two stores: recipes, samples, images, values."""

from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile, block_rows
from twofold.cache.recipe import differences
from twofold.cache.report import table
from twofold.cache.store import files_at
from twofold.data.utils.terminal import Summary


def diff(a: Path, b: Path) -> Summary:
    """Compare two feature files, or two stores: files of one recipe first, then those of one backbone and view. Raises
    CacheError if a path is neither, or one of each, or a file cannot be read."""
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
    files, lines = [_compare(*pair) for pair in pairs], []
    for file in files:
        lines += [*_lines(file), ""]
    only = {side: [file.path.name for file in unpaired] for side, unpaired in (("A", left), ("B", right))}
    lines += [f"only in {side}: {name}" for side, names in only.items() for name in names]
    return Summary(values={"files": files, "only_a": only["A"], "only_b": only["B"]},
                   lines=lines[:-1] if lines and not lines[-1] else lines or ["no feature files in either"])


def _compare(a: FeatureFile, b: FeatureFile) -> dict[str, Any]:
    """Two files compared. recipe: field to both values; failures: key to both reasons; values: None if there are none.
    """
    common = [key for key in a.keys if key in b.position]
    reasons = {key: (a.failures.get(key, ""), b.failures.get(key, "")) for key in a.failures | b.failures}
    return {
        "a": str(a.path), "b": str(b.path), "recipe": differences(a.recipe, b.recipe), "rows": (a.rows, b.rows),
        "only_a": [key for key in a.keys if key not in b.position],
        "only_b": [key for key in b.keys if key not in a.position],
        "changed_images": [key for key in common if a.sha256[a.position[key]] != b.sha256[b.position[key]]],
        "failures": {key: pair for key, pair in reasons.items() if pair[0] != pair[1]},
        "common": len(common), "values": _compare_values(a, b, common) if common and a.dim == b.dim else None}


def _compare_values(a: FeatureFile, b: FeatureFile, keys: list[str]) -> dict[str, Any]:
    """Bit-identical rows, largest absolute difference, cosine of a row and its partner. Block by block: two files may
    be larger than memory."""
    equal, largest, cosines = 0, 0.0, []
    count = block_rows(a.dim)
    for start in range(0, len(keys), count):
        left, right = (file.read(keys[start:start + count]) for file in (a, b))
        distances = np.abs(left - right).max(axis=1)
        equal, largest = equal + int((distances == 0).sum()), max(largest, float(distances.max()))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        products = np.einsum("nd,nd->n", left, right, dtype=np.float64)
        cosines.append(np.where(distances == 0, 1.0, products / np.maximum(lengths, np.finfo(np.float32).tiny)))
    cosine = np.concatenate(cosines)
    least = int(cosine.argmin())
    return {"equal": equal, "largest": largest, "mean_cosine": float(cosine.mean()),
            "least_cosine": float(cosine[least]), "least_key": keys[least]}


def _lines(file: dict[str, Any]) -> list[str]:
    """A comparison of two files for people."""
    recipe = table([("recipe", "A", "B"), *((name, str(left), str(right))
                                            for name, (left, right) in file["recipe"].items())])
    differing = [f"  {len(keys)} samples {what} (the first is {next(iter(keys))})" for what, keys in (
        ("only in A", file["only_a"]), ("only in B", file["only_b"]), ("of another image", file["changed_images"]),
        ("with another failure", file["failures"])) if keys]
    common, values = file["common"], file["values"]
    if values is None:
        said = "values of different lengths" if common else "no values to compare: no common samples"
    elif values["equal"] == common:
        said = f"{common} common samples: all values are equal"
    else:
        said = (f"{common} common samples: {values['equal']} equal; largest difference {values['largest']:.3g}, cosine "
                f"{values['mean_cosine']:.6f} on average, {values['least_cosine']:.6f} at the least "
                f"({values['least_key']})")
    return [*(f"{file[side]}  ({rows} samples)" for side, rows in zip("ab", file["rows"], strict=True)),
            *([f"  {line}" for line in recipe] if file["recipe"] else ["  the same recipe"]), *differing, f"  {said}"]

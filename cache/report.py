"""What a store and a feature file hold."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from twofold.cache.recipe import Recipe
from twofold.cache.store import Store, files_at, is_retired
from twofold.data.utils.terminal import Summary


def listing(path: Path) -> Summary:
    """The feature files of a store, unreadable ones with the reason, number of shards and of retired rows per recipe.
    Raises CacheError if `path` is not a store."""
    store = Store(path)
    good, bad = store.readable()
    shards, retired = Counter[str](), Counter[str]()
    for shard in store.shards():
        name = shard.path.parent.name
        shards[name] += not is_retired(shard.path)
        retired[name] += shard.rows if is_retired(shard.path) else 0
    files = [feature_record(file.path.name, file.recipe, rows=file.rows, failed=file.failed, dim=file.dim,
                            size=file.path.stat().st_size) for file in good]
    data = {"store": str(path), "files": files, "unreadable": {path.name: reason for path, reason in bad.items()},
            "unfinished_shards": dict(+shards), "retired_rows": dict(+retired)}
    return Summary(values=data, lines=[
        *(feature_table(files) or [f"{path}: no feature files"]), *(f"unreadable: {reason}" for reason in bad.values()),
        *(f"unfinished: {count} shards of recipe {name[:8]} (the same `extract` command continues them)"
          for name, count in (+shards).items()),
        *(f"kept aside: {count} rows of recipe {name[:8]} of samples that have left the manifest (they come back with "
          "them)" for name, count in (+retired).items())])


def describe(path: Path, *, failures: bool = False) -> Summary:
    """How a feature file, or every file of a store, was made; or which of its samples have no features, and why. Raises
    CacheError if one cannot be read."""
    files, lines = files_at(path), []
    if failures:
        for file in files:
            lines += [f"{file.path.name}: {file.failed} of its samples have no features",
                      *(f"  {key}: {reason}" for key, reason in file.failures.items())]
        return Summary(lines, {file.path.name: file.failures for file in files})
    data = []
    for file in files:
        facts = {"file": file.path.name, "created": file.header.created, "fingerprint": file.fingerprint,
                 "rows": file.rows, "dim": file.dim, "failed": file.failed}
        recipe, software, counts = (file.recipe.record(), json.loads(file.header.software),
                                    dict(Counter(file.failures.values())))
        data.append(facts | {"recipe": recipe, "software": software, "failures": counts})
        lines += [*([""] if lines else []), *(f"{name:12} {value}" for name, value in facts.items()),
                  "recipe", *(f"  {name:14} {json.dumps(value)}" for name, value in recipe.items()),
                  "made with      " + ", ".join(f"{name} {version}" for name, version in software.items()),
                  *(["failures"] if counts else []), *(f"  {count:6} {reason}" for reason, count in counts.items())]
    return Summary(lines, data)


def feature_record(file: str, recipe: Recipe, *, rows: int, failed: int, dim: int, size: int) -> dict[str, Any]:
    """What `cache ls` says of a feature file of `size` bytes."""
    return {"file": file, "backbone": recipe.backbone, "view": recipe.view["name"], "rows": rows, "failed": failed,
            "dim": dim, "dtype": recipe.dtype, "precision": recipe.precision, "weights": recipe.weights,
            "fingerprint": recipe.fingerprint, "bytes": size}


def feature_table(files: list[dict[str, Any]]) -> list[str]:
    """A header and one line per feature file, each given as a `feature_record`; nothing for no files."""
    header = ("backbone", "view", "samples", "failed", "dim", "stored", "computed", "weights", "recipe", "MB")
    rows = [(file["backbone"], file["view"], str(file["rows"]), str(file["failed"]), str(file["dim"]), file["dtype"],
             file["precision"], f"UNTRAINED {file['weights']}" if file["weights"].startswith("random:")
             else file["weights"].removeprefix("sha256:")[:8], file["fingerprint"][:8], f"{file['bytes'] / 1e6:.1f}")
            for file in files]
    return table([header, *rows]) if rows else []


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of left-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

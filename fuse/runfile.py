"""A Run on disk: settings, weights of every seed, metrics, predictions and history; no pickle anywhere."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cache.files import published, write_text
from cache.recipe import Recipe
from data.errors import InputError
from data.labels import Taxonomy, taxonomy
from fuse.heads import Parameters
from fuse.standard import Standard

FORMAT = "twofold-run"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained head and all that prediction needs."""

    standard: Standard
    parameters: Parameters
    classes: Taxonomy
    recipes: dict[str, Recipe]  #: of each stream
    settings: object  #: the dataclass it was asked for with
    seeds: list[int]


def write_run(out: Path, run: Run, *, features, probabilities: np.ndarray, history: list[dict], table,
              seconds: float) -> None:
    """Write a Run folder; `run.json` comes last, so that a folder which has it is whole."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").unlink(missing_ok=True)
    _write_head(out / "head.safetensors", run)
    write_text(out / "metrics.json", json.dumps(table.record(), indent=2))
    write_text(out / "predictions.csv", predictions_csv(features, probabilities.mean(axis=0)))
    write_text(out / "history.csv", _csv(list(history[0]), (row.values() for row in history)))
    write_text(out / "run.json", json.dumps({
        "format": FORMAT, "format_version": FORMAT_VERSION, "classes": list(run.classes.classes),
        "taxonomy": run.classes.name, "settings": _plain(asdict(run.settings)), "seeds": run.seeds,
        "inputs": {name: {"fingerprint": recipe.fingerprint, "recipe": asdict(recipe)}
                   for name, recipe in run.recipes.items()},
        "left_out": dict(features.left_out), "software": _software(), "seconds": round(seconds, 3),
    }, indent=2))


def read_run(path: Path) -> Run:
    """Read a Run back. Raises InputError if the folder is not a whole one."""
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "head.safetensors")
        if (record["format"], record["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise InputError(f"{path}: a Run of another version ({record['format_version']}): update Twofold")
        standards = {name: tensors.pop(name).numpy() for name in list(tensors) if name.startswith("standard.")}
        recipes = {name: Recipe(**entry["recipe"]) for name, entry in record["inputs"].items()}
        return Run(
            standard=Standard({name: standards[f"standard.{name}.mean"] for name in recipes},
                              {name: standards[f"standard.{name}.std"] for name in recipes}),
            parameters=tensors, classes=taxonomy(record["taxonomy"]), recipes=recipes, settings=record["settings"],
            seeds=record["seeds"])
    except FileNotFoundError as error:
        raise InputError(f"{path} is not a Run: it has no {Path(error.filename).name}") from None
    except (json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} is not a whole Run ({error}): train it again") from None


def predictions_csv(features, mean: np.ndarray) -> str:
    """key, split, truth, prediction and a probability for each class, as CSV; `mean` is (N, C)."""
    names = np.array(features.taxonomy.classes, object)
    rows = zip(features.keys, features.split, names[features.labels], names[mean.argmax(axis=1)], mean, strict=True)
    return _csv(["key", "split", "truth", "prediction", *names],
                ([*texts, *(f"{value:.6f}" for value in row)] for *texts, row in rows))


def _write_head(path: Path, run: Run) -> None:
    tensors = {name: value.contiguous().cpu() for name, value in run.parameters.items()}
    for name in run.standard.streams:
        tensors[f"standard.{name}.mean"] = torch.from_numpy(run.standard.mean[name])
        tensors[f"standard.{name}.std"] = torch.from_numpy(run.standard.std[name])
    with published(path) as temporary:
        save_file(tensors, temporary)


def _csv(header: Sequence[str], rows: Iterable[Iterable]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: object) -> object:
    """Paths as text, tuples as lists, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _software() -> dict[str, str]:
    return {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}

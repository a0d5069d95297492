"""A run as a page that the Hugging Face hub shows: what it is, its figures with their uncertainty, its limits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from twofold.cache.card import markdown_table
from twofold.data.utils.errors import InputError
from twofold.fuse.runs.run import Run

MARK = "trained with Twofold."  #: stands in every card, so that a later export knows it
LIMITS = """\
* The answers are what annotators would call a face, not what a person feels; do not decide about people with them.
* Faces must be cropped and aligned as those it was trained on; of other people it may be less sure.
* Compound classes are rare and their labels uncertain: read the intervals, and the per-class figures above."""


def model_card(run: Run, *, licences: Mapping[str, str], side: int = 0) -> str:
    """The text of a README.md with the hub's metadata in front.

    licences: of the encoders, where one is stated; side: of the faces that the model with encoders takes, 0 for none.

    Raises InputError for a run whose metrics.json does not read back.
    """
    try:
        system = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))["systems"][-1]
        return "\n".join([*_metadata(run, system), "", *_page(run, system, licences, side), ""])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{run.path}: metrics.json does not read back ({error}): train it again") from None


def _metadata(run: Run, system: dict[str, Any]) -> list[str]:
    """YAML whose values are JSON, which is YAML too: nothing in a name can break out of it."""
    metrics = [{"type": "accuracy", "value": system["accuracy"]}, {"type": "f1", "name": "macro-F1",
                                                                  "value": system["macro_f1"]}]
    values = {
        "license": "other", "license_name": "of-its-encoders-and-data", "library_name": "twofold",
        "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "compound-expressions", "twofold"],
        "model-index": [{"name": run.path.resolve().name, "results": [{
            "task": {"type": "image-classification"}, "metrics": metrics,
            "dataset": {"name": f"{system['n']} faces of {run.taxonomy.name}", "type": run.taxonomy.name}}]}],
    }
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"]


def _page(run: Run, system: dict[str, Any], licences: Mapping[str, str], side: int) -> list[str]:
    faces = run.record["faces"]
    scored = f"{len(faces)} folds by group" if len(faces) > 1 else "the test split"
    mark = " * UNTRAINED" if run.untrained else ""
    untrained = ["", "**Some of its encoders have random weights: its figures mean nothing.**"] if run.untrained else []
    return [
        f"# {run.taxonomy.name}: {run.kind} on {len(run.streams)} encoder{'s' if len(run.streams) > 1 else ''}", "",
        f"Compound facial expressions from cached features, {MARK}", *untrained, "",
        "## Figures", "",
        f"Of {system['n']} faces of {scored}, none of which it learned from or was chosen by; "
        f"{system.get('figures_of', 'the ensemble of its seeds')}; 95 % intervals by bootstrap of groups.", "",
        *markdown_table((mark, "value", "95 %"), _figures(system)), "",
        *markdown_table(("class" + mark, "faces", "precision", "recall", "F1"),
                [(name, str(row["n"]), *(_percent(row[kind]) for kind in ("precision", "recall", "f1")))
                 for name, row in system["per_class"].items()]), "",
        "## Encoders", "",
        *markdown_table(("backbone", "view", "embedding", "weights", "licence"),
                [(backbone + (" * UNTRAINED" if recipe.untrained else ""), view, f"{dim}-d", recipe.weights[:23],
                  "random numbers: none" if recipe.untrained else licences.get(backbone, "not stated"))
                 for (backbone, view, recipe), dim in zip(run.streams, run.head.spec.dims, strict=True)]), "",
        "What is made with an encoder is under its licence too.", "",
        "## Use", "", *_use(run, side), "",
        "## Data", "",
        f"{sum(fold['train'] for fold in faces) // len(faces)} faces to learn from"
        f"{' a fold' if len(faces) > 1 else ''}; faces of one group stood on one side.", "",
        *(f"* {note}" for note in run.record["notes"]), "", "## Limits", "", LIMITS]


def _use(run: Run, side: int) -> list[str]:
    inputs = [f"* `head.onnx`: `features` (N, {sum(run.head.spec.dims)}) float32, the encoders' embeddings side by "
              f"side in the order above, to `probabilities` (N, {len(run.taxonomy.classes)})."]
    if side:
        inputs.append(f"* `face.onnx`: `faces` (N, {side}, {side}, 3) uint8 RGB, cropped and aligned as the faces it "
                      "was trained on, to the same; it holds the encoders' weights, under their licences.")
    return [*inputs, f"* Classes, in order: {', '.join(run.taxonomy.classes)}."]


def _figures(system: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of a table; `ece_calibrated` is what older runs call the calibration error."""
    error = system.get("calibration_error", system.get("ece_calibrated"))
    return [("accuracy", _percent(system["accuracy"]), _span(system["accuracy_interval"])),
            ("macro-F1", _percent(system["macro_f1"]), _span(system["macro_f1_interval"])),
            ("calibration error", "-" if error is None else f"{error:.3f}", "")]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _span(interval: Sequence[float | None] | None) -> str:
    if not interval or None in interval:
        return "none: too few groups"
    return f"{_percent(interval[0])} to {_percent(interval[1])}"

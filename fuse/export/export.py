"""The verb `export`: a run for programs and people that have no Twofold: ONNX models, and a page that the Hugging Face
hub shows (what the run is, its figures with their uncertainty, its limits)."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twofold.cache.card import escape, markdown_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.data.utils.terminal import Summary
from twofold.fuse.core.task import Task
from twofold.fuse.export.onnx import Encoders, face_record, is_exported_model, output_name, write_model
from twofold.fuse.metrics.metric import Metric
from twofold.fuse.runs.read import Run
from twofold.fuse.tables import heading, say, say_figure

MARK = "trained with Twofold."  #: in every card, so that a later export knows its own
LIMITS = """\
* The answers are what annotators would call a face, not what a person feels; do not decide about people with them.
* Faces must be cropped and aligned as those it was trained on; of other people it may be less sure.
* Compound classes are rare and their labels uncertain: read the intervals, and the per-class figures above."""
HEAD, FACE, PREPROCESSING, CARD = "head.onnx", "face.onnx", "face.json", "README.md"
MODEL = OutputKind("a model that `export` wrote", is_exported_model)
KINDS = {HEAD: MODEL, FACE: MODEL, CARD: OutputKind("a card that `export` wrote", lambda path: MARK in read_head(path)),
         PREPROCESSING: OutputKind("a file that `export` wrote", lambda path: '"inputs"' in read_head(path))}


ABOUT = {HEAD: "raw features", FACE: f"faces, prepared as {PREPROCESSING} says,"}
HUB_NAMES = {"macro_f1": "f1"}  #: of metrics, where the hub has another


def export(run: Run, out: Path, *, licences: Mapping[str, str], encoders: Encoders | None = None,
           overwrite: bool = False) -> Summary:
    """Write the run's head as ONNX and its model card to a new or empty folder; see `onnx` for what may fail.

    encoders: write encoders and head as one model, too. overwrite: an older export, of which only its files are
    replaced. Raises InputError for a folder of anything else.
    """
    if encoders:
        run.require_single_images()
        own = zip((backbone for backbone, _, _ in run.streams), encoders.licences, strict=True)
        licences = {**licences, **dict(own)}
    how = face_record(run, encoders) if encoders else {"inputs": []}
    texts = {PREPROCESSING: json.dumps(how, indent=2) + "\n"} if encoders else {}
    texts[CARD] = model_card(run, licences=licences, inputs=how["inputs"])
    outputs = {name: Output(out / name, KINDS[name], overwrite) for name in (
        HEAD, *([FACE] if encoders else []), *texts)}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not any((out / name).is_file() for name in (HEAD, CARD)):
            raise InputError(f"{out} holds something already, and is not a folder of `export`: choose another -o")
        for output in outputs.values():
            output.check()
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        differences = {HEAD: write_model(run, Path(folder, HEAD))}
        if encoders:
            differences[FACE] = write_model(run, Path(folder, FACE), encoders)
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for name, output in outputs.items():
            with output.writing() as temporary:
                shutil.copyfile(Path(folder, name), temporary)
    other = [backbone for backbone, _, recipe in run.streams if encoders and recipe.precision != "fp32"]
    lines = [*(f"{out / name}: {ABOUT[name]} to {output_name(run)}, at most {difference:.1g} from the run's own"
               for name, difference in differences.items()),
             f"{out / CARD}: a model card with figures, encoders, data and limits"]
    if other:
        lines.append(f"note: {FACE} computes in fp32 what the run's features were computed in bf16 or fp16 "
                     f"({', '.join(other)}): answers differ by that")
    return Summary(lines, {"folder": str(out), "files": list(outputs), "largest_difference": differences[HEAD],
                           "largest_differences": differences})


def model_card(run: Run, *, licences: Mapping[str, str], inputs: Sequence[Mapping[str, Any]] = ()) -> str:
    """The text of a README.md with the hub's metadata in front.

    licences: of the encoders, where one is stated; inputs: of the model with encoders, if there is one.
    Raises InputError for a run whose metrics.json cannot be read.
    """
    thresholds = [f"{name} {run.calibration.thresholds[part.columns][c]:.3f}" for part in run.task.parts
                  for c, name in enumerate(part.task.outputs) if not part.task.classes and not part.task.numbers[c]]
    system, folds = run.metrics.systems[-1] if run.metrics.systems else None, run.record.faces
    metadata = {
        "license": "other", "license_name": "of-its-encoders-and-data", "library_name": "twofold",
        "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "compound-expressions", "twofold"]}
    if system:
        metadata["model-index"] = [{"name": run.path.resolve().name, "results": [{
            "task": {"type": "image-classification"}, "metrics": [
                {"type": HUB_NAMES.get(metric.key, metric.key), "name": metric.name, "value": value}
                for metric in run.task.metrics if (value := getattr(system, metric.key)) is not None],
            "dataset": {"name": f"{system.n} samples of {run.taxonomy.name}", "type": run.taxonomy.name}}]}]
    encoders = [
        (backbone + (" * UNTRAINED" if recipe.untrained else ""), view, f"{dim}-d", recipe.weights[:23],
         "random numbers: none" if recipe.untrained else licences.get(backbone, "not stated"))
        for (backbone, view, recipe), dim in zip(run.streams, run.head.spec.dims, strict=True)]
    crops = [f"* Faces were cropped with {_code(line)}." for line in run.record.crops] or [
        "* Images were taken whole, as the dataset has them: their manifest records no crop settings."]
    preprocessing = dict.fromkeys((backbone, json.dumps(recipe.preprocessing)) for backbone, _, recipe in run.streams)
    models = [f"* `face.onnx`: `{each['name']}` ({', '.join(map(str, each['shape']))}) uint8 RGB, faces that were "
              "cropped, aligned and resized as `face.json` says, to the same; it holds the encoders' weights, under "
              "their licences." for each in inputs]
    return "\n".join([
        # YAML whose values are JSON, which is YAML too: nothing in a name can break out of it
        "---", *(f"{name}: {json.dumps(value)}" for name, value in metadata.items()), "---", "",
        f"# {escape(run.taxonomy.name)}: {run.kind} on {len(run.streams)} "
        f"encoder{'s' if len(run.streams) > 1 else ''}", "",
        f"Compound facial expressions from cached features, {MARK}",
        *(["", "**Some of its encoders have random weights: its figures mean nothing.**"] if run.untrained else []), "",
        "## Figures", "", *(_figures(run, system) if system else ["No test sample had a label to score by."]), "",
        "## Encoders", "", *markdown_table(("backbone", "view", "embedding", "weights", "licence"), encoders), "",
        "What is made with an encoder is under its licence too.", "",
        "## Preprocessing", "", *crops, *(f"* {escape(backbone)}: {_code(how)}" for backbone, how in preprocessing), "",
        "## Use", "",
        f"* `head.onnx`: `features` (N, {'T, ' if run.head.spec.frames else ''}{sum(run.head.spec.dims)}) float32, "
        f"{'T frames of a clip, nan beyond its end, ' if run.head.spec.frames else ''}"
        f"the encoders' embeddings side by side "
        f"in the order above, to `{output_name(run)}` (N, {len(run.task.outputs)}): {run.task.kind}.", *models,
        f"* Columns, in order: {escape(', '.join(run.task.outputs), most=10_000)}.",
        *([f"* A label is called from its threshold on: {escape(', '.join(thresholds), most=10_000)}."]
          if thresholds else []), "",
        "## Data", "",
        f"{sum(fold.train for fold in folds) // len(folds)} training samples"
        f"{' per fold' if len(folds) > 1 else ''}; samples of one group never cross a split.", "",
        *(f"* {escape(note, most=2000)}" for note in run.record.notes), "", "## Limits", "", LIMITS, ""])


def _figures(run: Run, system: Any) -> list[str]:
    mark = " * UNTRAINED" if run.untrained else ""
    scored = f"{run.folds} folds by group" if run.folds > 1 else "the test split"
    return [
        f"Of {system.n} samples of {scored}, none of which it was trained or validated on; "
        f"{escape(system.figures_of)}; 95 % intervals by bootstrap of groups.", "",
        *markdown_table((mark, "value", "95 %"), [
            *((metric.name, say(metric, getattr(system, metric.key)), _span(metric, getattr(
                system, f"{metric.key}_interval"))) for metric in run.task.metrics),
            *([("calibration error", f"{system.calibration_error:.3f}", "")] if run.task.classes else [])]), "",
        *(line for part in run.task.parts for line in _by_output(part.task, system, mark))]


def _by_output(task: Task, system: Any, mark: str) -> list[str]:
    keys = list(system.per_class[task.outputs[0]])
    return [*markdown_table((("class" if task.classes else "column") + mark, *map(heading, keys)), [
        (name, *(say_figure(key, system.per_class[name][key]) for key in keys)) for name in task.outputs]), ""]


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', '').split())}`"


def _span(metric: Metric, interval: Sequence[float] | None) -> str:
    return f"{say(metric, interval[0])} to {say(metric, interval[1])}" if interval else "none: too few groups"

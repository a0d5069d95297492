"""The file that the ABAW compound-expression challenge wants: its own template with one class number a row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twofold.data.labels import Taxonomy
from twofold.data.readers.cexpr import read_template
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind
from twofold.fuse.video.smoothing import smoothed

CLASSES = "cexpr7"


def template_keys(path: Path, classes: Taxonomy) -> tuple[str, ...]:
    """The frames to answer. Raises InputError for another taxonomy, or a template that is not as published."""
    if classes.name != CLASSES:
        raise InputError(f"a submission needs a run on the classes {CLASSES}, not {classes.name}: "
                         f"train it with `fuse --classes {CLASSES}`")
    keys = read_template(path).keys
    if _frames(path) != list(keys):
        raise InputError(f"{path}: its lines end in other characters than line ends: get the template anew")
    return keys


def submission_output(path: Path, template: Path, *, overwrite: bool, inputs: Sequence[Path]) -> Output:
    """The submission to be written, by the rule of data/utils/outputs.py: the verb's own has the template's frames."""

    def own(there: Path) -> bool:
        return _frames(there) == _frames(template)

    return Output(path, OutputKind("a submission for this template", own), overwrite, [*inputs, template])


def _frames(path: Path) -> list[str]:
    return [key for _, key, _ in _answers(path.read_bytes())]


def answered(scores: np.ndarray, keys: Sequence[str], weights: np.ndarray, *, fill: bool) -> np.ndarray:
    """(N, C) scores of every frame of the template; a video is a folder.

    scores: (N, C), nan where there is no face. fill: give videos without any face the mean scores of all other faces;
    else raises InputError listing them, since as a rule their frames were forgotten.
    """
    answers, faceless = smoothed(scores, keys, [""] * len(keys), weights)
    if faceless and (not fill or np.isnan(answers).all()):
        raise InputError(f"{len(faceless)} whole videos of the template have no face: {', '.join(sorted(faceless))}; "
                         "add their frames, or say --fill-videos if they have none (they get the mean of all others)")
    lacking = np.isnan(answers[:, 0])
    answers[lacking] = np.nanmean(scores, axis=0)
    return answers


def write_submission(template: Path, out: Output, numbers: Sequence[int]) -> None:
    """Write the template to `out` with these class numbers, one a frame: all other bytes stay as they are."""
    content = template.read_bytes()
    lines = content.splitlines(keepends=True)
    for (line, key, ending), number in zip(_answers(content), numbers, strict=True):
        lines[line] = b"%s,%d%s" % (key.encode(), number, ending)
    with out.writing() as temporary:
        temporary.write_bytes(b"".join(lines))


def _answers(content: bytes) -> list[tuple[int, str, bytes]]:
    """(line, frame, line end) of each line below the header that is not blank."""
    filled = [(number, line) for number, line in enumerate(content.splitlines(keepends=True)) if line.strip()][1:]
    return [(number, line.partition(b",")[0].strip().decode("utf-8", "replace"), line[len(line.rstrip(b"\r\n")):])
            for number, line in filled]

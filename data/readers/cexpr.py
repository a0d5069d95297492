"""C-EXPR-DB (ABAW): a folder of cropped frames per video, `01/00001.jpg` on, or the videos themselves.

The submission template has the header `image_location,Fearfully_Surprised,...` and a line `01/00001.jpg,<class>` for
each frame to answer; decoded frames may be one more or fewer. See D. Kollias, CVPR 2023, and the challenge's pages.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated

import pandas as pd

from twofold.data.images.archives import Place, read_head
from twofold.data.images.formats import is_image
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import compare_counts, missing_files, parse_int, read_lines, reads_archives
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

HEADER = ("image_location", "Fearfully_Surprised", "Happily_Surprised", "Sadly_Surprised", "Disgustedly_Surprised",
          "Angrily_Surprised", "Sadly_Fearful", "Sadly_Angry")
PUBLISHED = {"": 26_145}  #: D. Kollias, CVPR 2023
OTHER = (-1, 7)  #: frames of no or another expression


def read_cexpr(
    root: Path, *,
    template: Annotated[Path | None, cli_option(help="The submission template: the rows to answer.")] = None,
    annotation: Annotated[Path | None, cli_option(help="True classes: a table as the template, or a folder.")] = None,
    crop: Annotated[Path | None, cli_option(help="ROOT holds videos: crop them to this folder.")] = None,
    detector: Annotated[Path | None, cli_option(help="Of --crop: YuNet's ONNX file.")] = None,
) -> Manifest:
    """The manifest of a folder of frame folders, `group` being the video.

    Rows are those of the template where given, whether or not their frame is there (a frame without a face must be
    answered all the same); otherwise every frame there is, under its own name, whatever its format. `annotation` is a
    table like the template, or a folder of `<video>.txt` with one class number a line below a header; -1 and 7 (other)
    mean no label. `crop` writes the faces of the main person of each video first. Raises InputError.
    """
    if crop is not None:
        from twofold.data.faces.challenge import crop_challenge

        if template is None:
            raise InputError("--crop goes with --template, which says what frames are called and which ones to answer")
        root = crop_challenge(root, template_frames(template), crop, detector)
    return _read_frames(root, template=template, annotation=annotation)


@reads_archives
def _read_frames(root: Place, *, template: Path | None, annotation: Path | None) -> Manifest:
    frames = sorted(f"{video.name}/{frame.name}" for video in root.iterdir() if video.is_dir()
                    for frame in video.iterdir()
                    if is_image(PurePath(video.name, frame.name), partial(read_head, frame)))
    if not frames:
        raise InputError(f"{root}: no frames like 01/00001.jpg in it: cut the videos into cropped faces first")
    keys = frames_of(template_frames(template), frames) if template else frames
    labels = _annotated(annotation, keys) if annotation else {}
    table = pd.DataFrame({"key": keys, "compound": [labels.get(key, "") for key in keys],
                          "group": [key.partition("/")[0] for key in keys]})
    notes = []
    if template:
        missing, extra = missing_files(root, keys), sorted(set(frames) - set(keys))
        videos = sorted({key.partition("/")[0] for key in keys} - {key.partition("/")[0] for key in frames})
        notes = compare_counts("C-EXPR-DB submission template", PUBLISHED, table)
        notes += [f"{len(missing):,} of the template's {len(keys):,} frames are not there (the first is {missing[0]}): "
                  f"they stay in the manifest, for they must be answered"] if missing else []
        notes += [f"{len(videos)} whole videos are not there: {', '.join(videos)}"] if videos else []
        notes += [f"{len(extra):,} frames are not in the template and left out (the first is {extra[0]})"
                  ] if extra else []
    if annotation and len(labels) < len(keys):
        notes.append(f"{annotation}: {len(keys) - len(labels):,} of {len(keys):,} frames have no label")
    return build_manifest(table, source=str(template or root), notes=notes)


def frames_of(asked: Sequence[str], frames: Iterable[str]) -> list[str]:
    """For each frame that a template asks for, the one that is there: of that name, else of that name in another
    image format; else the name as asked for."""
    names = set(frames)
    other = {key.rpartition(".")[0]: key for key in sorted(names, reverse=True)}
    return [key if key in names else other.get(key.rpartition(".")[0], key) for key in asked]


def template_frames(path: Path) -> tuple[str, ...]:
    """The frames that the challenge's template asks for. Raises InputError naming the line not as published."""
    return tuple(_rows(path))


def _rows(path: Path) -> dict[str, str]:
    """Frame and the rest of its line, from a table with the template's header."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    lines = read_lines(path)
    if not lines or tuple(name.strip() for name in lines[0][1].split(",")) != HEADER:
        raise InputError(f"{path}: line 1 is not the challenge's header {','.join(HEADER)}")
    rows: dict[str, str] = {}
    for number, text in lines[1:]:
        key, _, rest = text.partition(",")
        if key.count("/") != 1 or not all(key.split("/")):
            raise InputError(f"{path}: line {number}: {key!r} is not like 01/00001.jpg")
        if key in rows:
            raise InputError(f"{path}: line {number}: {key} stands there twice")
        rows[key] = rest.strip()
    if not rows:
        raise InputError(f"{path}: no frames below the header")
    return rows


def _annotated(path: Path, keys: list[str]) -> dict[str, str]:
    """The label of each annotated frame; frames of another expression have none.

    Of a folder, line k below the header of `<video>.txt` is frame k.
    """
    if path.is_dir():
        videos = sorted({key.partition("/")[0] for key in keys})
        numbers = {f"{video}/{frame:05d}.jpg": text for video in videos if (path / f"{video}.txt").is_file()
                   for frame, text in _lines_of_frames(path / f"{video}.txt")}
        if not numbers:
            raise InputError(f"{path}: no <video>.txt for any of the videos (such as {videos[0]}.txt)")
    else:
        numbers = _rows(path)
    classes = builtin_taxonomy("cexpr7")
    labels = {}
    for key, text in numbers.items():
        cells = [cell.strip() for cell in text.split(",")]
        one_hot = sorted(cells) == ["0"] * 6 + ["1"]
        number = cells.index("1") if one_hot else parse_int(text.strip())
        if number is None:
            raise InputError(f"{path}: {key}: {text!r} is not one class number")
        if number in OTHER:
            continue
        try:
            labels[key] = classes.label(number)
        except InputError as error:
            raise InputError(f"{path}: {key}: {error}") from None
    return {key: labels[name] for key, name in zip(keys, frames_of(keys, labels), strict=True) if name in labels}


def _lines_of_frames(path: Path) -> list[tuple[int, str]]:
    """Frame and its line; a blank one is of a frame without a label. Raises InputError for a file without a header,
    in which each label would go to the frame before its own."""
    lines = read_lines(path)
    if lines and parse_int(lines[0][1].partition(",")[0]) is not None:
        raise InputError(f"{path}: line {lines[0][0]} is {lines[0][1][:80]!r}, a label, where the header should be: "
                         f"put the line {','.join(HEADER[1:])} before it")
    return [(number - lines[0][0], text) for number, text in lines[1:]]


READER = read_cexpr

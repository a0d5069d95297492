"""C-EXPR-DB (ABAW): a folder of cropped frames per video, `01/00001.jpg` on, or the videos themselves.

The submission template has the header `image_location,Fearfully_Surprised,...` and a line `01/00001.jpg,<class>` for
each frame to answer; decoded frames may be one more or fewer. See D. Kollias, CVPR 2023, and the challenge's pages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated

import pandas as pd

from twofold.data.images.archives import Place, read_head
from twofold.data.images.formats import is_image
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import Reader, compare_counts, missing_files, parse_int, read_lines, reads_archives
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

HEADER = ("image_location", "Fearfully_Surprised", "Happily_Surprised", "Sadly_Surprised", "Disgustedly_Surprised",
          "Angrily_Surprised", "Sadly_Fearful", "Sadly_Angry")
PUBLISHED = {"C-EXPR-DB submission template": {"": 26_145}}  #: D. Kollias, CVPR 2023
OTHER = (-1, 7)  #: frames of no or another expression


@dataclass(frozen=True)
class Template:
    """A submission template: its header line and the frames to answer, in order."""

    header: str
    keys: tuple[str, ...]


def read_template(path: Path) -> Template:
    """The challenge's submission template. Raises InputError naming the line that is not as published."""
    rows = _rows(path)
    return Template(read_lines(path)[0][1], tuple(key for key, _ in rows))


def read_cexpr(
    root: Path, *,
    template: Annotated[Path | None, cli_option(help="The submission template: the rows to answer.")] = None,
    annotation: Annotated[Path | None, cli_option(help="True classes: a table as the template, or a folder.")] = None,
    crop: Annotated[Path | None, cli_option(help="ROOT holds videos: crop them to this folder.")] = None,
    detector: Annotated[Path | None, cli_option(help="Of --crop: YuNet's ONNX file.")] = None,
) -> Manifest:
    """The manifest of a folder of frame folders, `group` being the video.

    Rows are those of the template where given, whether or not their frame is there (a frame without a face has no
    picture, and must be answered all the same); otherwise every frame there is. Frames may be .bmp, .png, ... where
    the template says .jpg: their own names are the keys. `annotation` is a table like the template with the true
    class, or a folder of `<video>.txt` with one class number a line below a header; -1 and 7 (other) mean no label.
    `crop` writes the faces of the main person of each video as such frames first. Raises InputError naming what is not
    as published.
    """
    if crop is not None:
        from twofold.data.faces.challenge import crop_challenge

        if template is None:
            raise InputError("--crop goes with --template, which says what frames are called and which ones to answer")
        root = crop_challenge(root, read_template(template).keys, crop, detector)
    return _read_frames(root, template=template, annotation=annotation)


@reads_archives
def _read_frames(root: Place, *, template: Path | None, annotation: Path | None) -> Manifest:
    frames = sorted(f"{video.name}/{frame.name}" for video in root.iterdir() if video.is_dir()
                    for frame in video.iterdir()
                    if is_image(PurePath(video.name, frame.name), partial(read_head, frame)))
    if not frames:
        raise InputError(f"{root}: no frames like 01/00001.jpg in it: cut the videos into cropped faces first")
    keys = frames_of(read_template(template).keys, frames) if template else frames
    labels = _annotated(annotation, keys) if annotation else {}
    table = pd.DataFrame({"key": keys, "compound": [labels.get(key, "") for key in keys],
                          "group": [key.partition("/")[0] for key in keys]})
    notes = [*compare_counts(*next(iter(PUBLISHED.items())), table), *_gaps(root, keys, frames)] if template else []
    if annotation and len(labels) < len(keys):
        notes.append(f"{annotation}: {len(keys) - len(labels):,} of {len(keys):,} frames have no label")
    return build_manifest(table, source=str(template or root), notes=notes)


def frames_of(asked: Sequence[str], frames: Iterable[str]) -> list[str]:
    """For each frame that a template asks for, the one that is there: of that name, else of that name in another
    image format; else the name as asked for."""
    names = set(frames)
    other = {key.rpartition(".")[0]: key for key in sorted(names, reverse=True)}
    return [key if key in names else other.get(key.rpartition(".")[0], key) for key in asked]


def _gaps(root: Place, keys: list[str], frames: list[str]) -> list[str]:
    """What the template asks for and is not there, and what is there and not asked for."""
    missing, extra = missing_files(root, keys), sorted(set(frames) - set(keys))
    here = {key.partition("/")[0] for key in frames}
    videos = sorted({key.partition("/")[0] for key in keys} - here)
    notes = [f"{len(missing):,} of the template's {len(keys):,} frames are not there (the first is {missing[0]}): "
             f"they stay in the manifest, for they must be answered"] if missing else []
    notes += [f"{len(videos)} whole videos are not there: {', '.join(videos)}"] if videos else []
    notes += [f"{len(extra):,} frames are not in the template and left out (the first is {extra[0]})"] if extra else []
    return notes


def _rows(path: Path) -> list[tuple[str, str]]:
    """Frame and the rest of its line, from a table with the template's header."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    lines = read_lines(path)
    names = tuple(name.strip() for name in lines[0][1].split(",")) if lines else ()
    if names != HEADER:
        raise InputError(f"{path}: line 1 is not the challenge's header {','.join(HEADER)}")
    rows, seen = [], set()
    for number, text in lines[1:]:
        key, _, rest = text.partition(",")
        if key.count("/") != 1 or not all(key.split("/")):
            raise InputError(f"{path}: line {number}: {key!r} is not like 01/00001.jpg")
        if key in seen:
            raise InputError(f"{path}: line {number}: {key} stands there twice")
        seen.add(key)
        rows.append((key, rest.strip()))
    if not rows:
        raise InputError(f"{path}: no frames below the header")
    return rows


def _annotated(path: Path, keys: list[str]) -> dict[str, str]:
    """The label of each annotated frame; frames of another expression have none."""
    numbers = _from_folder(path, keys) if path.is_dir() else dict(_rows(path))
    classes = builtin_taxonomy("cexpr7")
    labels = {}
    for key, text in numbers.items():
        cells = [cell.strip() for cell in text.split(",")]
        if len(cells) == len(classes.classes) and sorted(cells) == ["0"] * 6 + ["1"]:
            number = cells.index("1")
        elif len(cells) != 1 or (number := parse_int(cells[0])) is None:
            raise InputError(f"{path}: {key}: {text!r} is not one class number")
        if number in OTHER:
            continue
        try:
            labels[key] = classes.label(number)
        except InputError as error:
            raise InputError(f"{path}: {key}: {error}") from None
    return {key: labels[name] for key, name in zip(keys, frames_of(keys, labels), strict=True) if name in labels}


def _from_folder(folder: Path, keys: list[str]) -> dict[str, str]:
    """ABAW's way: line k below the header of `<video>.txt` is frame k."""
    videos = {key.partition("/")[0] for key in keys}
    numbers = {}
    for video in sorted(videos):
        path = folder / f"{video}.txt"
        if path.is_file():
            lines = [text for _, text in read_lines(path)]
            numbers.update({f"{video}/{frame:05d}.jpg": text for frame, text in enumerate(lines[1:], 1)})
    if not numbers:
        raise InputError(f"{folder}: no <video>.txt for any of the videos (such as {min(videos)}.txt)")
    return numbers


READER = Reader(read_cexpr, published=PUBLISHED)

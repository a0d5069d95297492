"""What was seen as rows of a manifest: one a face, and one for each photograph or frame without a face."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

import pandas as pd

from twofold.data.faces.look import Look
from twofold.data.faces.settings import CropSettings
from twofold.data.images.sources import NO_FACE_SUFFIX
from twofold.data.manifest import Manifest, build_manifest

IMAGES = "images"
COLUMNS = ("key", "group", "source", "frame", "time", "picture", "box", "landmarks", "score", "track",
           "sharpness", "scale", "padded", "crop", "note")


def face_key(look: Look, place: int, settings: CropSettings) -> str:
    """`images/clip.mp4/t0-000012.png` (track 0, frame 12), `images/photo.jpg.0.png`: the place-th face of a look."""
    if look.frame is None:
        return f"{IMAGES}/{look.source.name}.{place}{settings.suffix}"
    return f"{IMAGES}/{look.source.name}/t{look.faces[place].track}-{look.frame:06d}{settings.suffix}"


def rows(look: Look, settings: CropSettings, line: str) -> Iterator[dict[str, str]]:
    """A row a face; one without an image, whose key says so, for what has none. line: of the column `crop`.

    The look that ends a video is a row only where the video gave no frame at all: see `table`.
    """
    shared = {"group": look.source.name, "source": look.source.name, "crop": line, "note": look.note,
              "picture": " ".join(map(str, look.size or ())),
              "frame": "" if look.frame is None else str(look.frame),
              "time": "" if look.time is None else f"{look.time:.6f}".rstrip("0").rstrip(".")}
    if not look.faces:
        below = f"{look.source.name}" if look.frame is None else f"{look.source.name}/{look.frame:06d}"
        yield {"key": f"{IMAGES}/{below}{NO_FACE_SUFFIX}"} | shared
    for place, face in enumerate(look.faces):
        yield {"key": face_key(look, place, settings)} | shared | {
            "box": " ".join(f"{value:g}" for value in face.detection.box),
            "landmarks": " ".join(f"{value:g}" for point in face.detection.landmarks for value in point),
            "score": f"{face.detection.score:g}", "track": "" if look.frame is None else str(face.track),
            "sharpness": f"{face.sharpness:g}", "scale": f"{face.scale:g}", "padded": f"{face.padded:g}"}


def table(looks: Iterable[Look], settings: CropSettings, line: str, as_they_are: Set[str] = frozenset()) -> Manifest:
    """The manifest of looks, sources sorted by name. What ended a video before its time is the note of its last row.

    as_they_are: names of pictures that are faces already: a row each, whose key is the name.
    """
    lines: list[dict[str, str]] = []
    for look in looks:
        if look.last and look.frame is None and lines and lines[-1]["source"] == look.source.name:
            if look.note:
                lines[-1]["note"] = "; ".join(filter(None, (lines[-1]["note"], f"the video {look.note}")))
        elif look.source.name in as_they_are:
            blank: dict[str, str] = dict.fromkeys(COLUMNS, "")
            lines.append(blank | dict.fromkeys(("key", "group", "source"), look.source.name))
        elif look.last and look.source.video and not look.note:
            lines.extend(rows(replace(look, note="no frame"), settings, line))
        else:
            lines.extend(rows(look, settings, line))
    lines.sort(key=lambda row: row["source"])  # stable: frames stay in order
    cells = [[line.get(name, "") for name in COLUMNS] for line in lines]
    return build_manifest(pd.DataFrame(cells, columns=list(COLUMNS)), source="faces.csv")

"""Detected faces as rows of a manifest, and the report of `crop`, which is counted from these rows."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from twofold.data.faces.detect import FrameDetections
from twofold.data.faces.settings import CropSettings
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX

IMAGES = "images"
COLUMNS = ("key", "group", "source", "frame", "time", "picture", "box", "landmarks", "score", "track",
           "sharpness", "scale", "padded", "crop", "note")
SHOWN = 10  #: sources named in the text


def face_key(entry: FrameDetections, number: int, settings: CropSettings) -> str:
    """`images/clip.mp4/t0-000012.png` (track 0, frame 12), `images/photo.jpg.0.png`: the number-th face."""
    if entry.frame is None:
        return f"{IMAGES}/{entry.source.name}.{number}{settings.suffix}"
    return f"{IMAGES}/{entry.source.name}/t{entry.faces[number].track}-{entry.frame:06d}{settings.suffix}"


def _rows(entry: FrameDetections, settings: CropSettings, line: str) -> Iterator[dict[str, str]]:
    """A row a face, or one without an image, whose key says so. line: of the column `crop`."""
    name, frame = entry.source.name, entry.frame
    shared = dict(entry.source.labels) | {"group": name, "source": name, "crop": line, "note": entry.note,
              "picture": " ".join(map(str, entry.size or ())), "frame": "" if frame is None else str(frame),
              "time": "" if entry.time is None else f"{entry.time:.6f}".rstrip("0").rstrip(".")}
    if not entry.faces:
        yield shared | {"key": f"{IMAGES}/{name if frame is None else f'{name}/{frame:06d}'}{NO_FACE_SUFFIX}"}
    for number, face in enumerate(entry.faces):
        yield shared | {
            "key": face_key(entry, number, settings), "box": " ".join(f"{value:g}" for value in face.detection.box),
            "landmarks": " ".join(f"{value:g}" for point in face.detection.landmarks for value in point),
            "score": f"{face.detection.score:g}", "track": "" if frame is None else str(face.track),
            "sharpness": f"{face.sharpness:g}", "scale": f"{face.scale:g}", "padded": f"{face.padded:g}"}


def faces_manifest(detections: Iterable[FrameDetections], settings: CropSettings, line: str,
                   uncropped: Set[str] = frozenset()) -> Manifest:
    """The manifest of detections, sources sorted by name. What ended a video early is the note of its last row.

    line: of the column `crop`; uncropped: names of photographs that are faces already: a row each, whose key is the
    name.
    """
    rows: list[dict[str, str]] = []
    for entry in detections:
        name = entry.source.name
        if entry.last and entry.frame is None and rows and rows[-1]["source"] == name:
            if entry.note:
                rows[-1]["note"] = "; ".join(filter(None, (rows[-1]["note"], f"the video {entry.note}")))
        elif name in uncropped:
            rows.append(dict(entry.source.labels) | dict.fromkeys(("key", "group", "source"), name))
        elif entry.last and entry.source.video and not entry.note:
            rows.extend(_rows(replace(entry, note="no frame"), settings, line))
        else:
            rows.extend(_rows(entry, settings, line))
    rows.sort(key=lambda row: row["source"])  # stable: frames stay in order
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    cells = [[row.get(name, "") for name in names] for row in rows]
    return build_manifest(pd.DataFrame(cells, columns=names), source="faces.csv")


@dataclass(frozen=True)
class CropReport:
    """The result of `crop`. labelled: sources with a label; looks: photographs and frames in the manifest; frames_now:
    those of this run; faceless: sources without any face; faults: by source, why it could not be read, or not to its
    end."""

    manifest: Path
    photographs: int
    videos: int
    labelled: int
    looks: int
    faces: int
    tracks: int
    enlarged: int
    faceless: tuple[str, ...]
    faults: dict[str, str]
    frames_now: int
    seconds: float
    stopped: bool

    @property
    def exit_code(self) -> int:
        return 130 if self.stopped else 1 if self.faults else 0

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"manifest": str(self.manifest), "faceless": list(self.faceless),
                               "seconds": round(self.seconds, 3)}

    def text(self) -> str:
        if self.stopped:
            return (f"stopped after {self.frames_now:,} photographs and frames, {self.looks:,} with those of before; "
                    "all of them are safe, the same command goes on")
        lines = [f"{self.faces:,} faces in {self.photographs:,} photographs and {self.looks - self.photographs:,} "
                 f"frames of {self.videos:,} videos (tracks: {self.tracks:,}) -> {self.manifest}"]
        if self.labelled:
            lines.append(f"{self.labelled:,} of {self.photographs + self.videos:,} sources have their folder's label")
        if self.enlarged:
            lines.append(f"{self.enlarged:,} faces are smaller than their crop and were enlarged (column scale)")
        if self.faceless:
            more = f" and {len(self.faceless) - SHOWN:,} more" if len(self.faceless) > SHOWN else ""
            lines.append(f"no face in {len(self.faceless):,} sources: {', '.join(self.faceless[:SHOWN])}{more}")
        lines += [f"{name}: {reason}" for name, reason in list(self.faults.items())[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"... and {len(self.faults) - SHOWN:,} more files at fault: see the column note")
        rate = self.frames_now / max(self.seconds, 1e-9)
        return "\n".join([*lines, f"{self.frames_now:,} processed now, {rate:.1f} a second over {self.seconds:.1f} s"])


def crop_report(faces: Manifest, path: Path, *, frames_now: int, seconds: float, stopped: bool) -> CropReport:
    """Count the rows of a manifest."""
    table = faces.table
    seen, video = ~table["key"].str.endswith(NO_FACE_SUFFIX), table["frame"] != ""
    labelled = (table[["basic", "compound"]] != "").any(axis=1)
    last = table.groupby("source")["note"].last()
    faults = {str(name): note.removeprefix(f"{NO_FACE}; ") for name, note in last.items() if note not in ("", NO_FACE)}
    unread = {name for name in faults if not (table["source"] == name).to_numpy()[seen | video].any()}
    return CropReport(
        manifest=path, photographs=len(set(table["source"][~video]) - unread),
        videos=len(set(table["source"][video])), labelled=len(set(table["source"][labelled])),
        looks=len(table[["source", "frame"]].drop_duplicates()) - len(unread), faces=int(seen.sum()),
        tracks=len(table[seen & video][["source", "track"]].drop_duplicates()),
        enlarged=int((table["scale"][seen].astype(float) > 1).sum()),
        faceless=tuple(sorted(set(table["source"]) - set(table["source"][seen]) - unread)), faults=faults,
        frames_now=frames_now, seconds=seconds, stopped=stopped)

"""What `crop` did, as a person and as a program read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.data.images.sources import NO_FACE, NO_FACE_SUFFIX
from twofold.data.manifest import Manifest

SHOWN = 10  #: sources named in the text


@dataclass(frozen=True)
class Cropped:
    """The end of `crop`. looks: photographs and frames in the manifest; frames: those that this run looked at;
    faceless: sources without any face; faults: by source, why it could not be read, or not to its end."""

    manifest: Path
    photographs: int
    videos: int
    looks: int
    faces: int
    tracks: int
    enlarged: int
    faceless: tuple[str, ...]
    faults: dict[str, str]
    frames: int
    seconds: float
    stopped: bool

    @property
    def exit_code(self) -> int:
        return 130 if self.stopped else 1 if self.faults else 0

    def record(self) -> dict[str, Any]:
        return {"manifest": str(self.manifest), "photographs": self.photographs, "videos": self.videos,
                "looks": self.looks, "faces": self.faces, "tracks": self.tracks, "enlarged": self.enlarged,
                "faceless": list(self.faceless), "faults": self.faults, "frames_now": self.frames,
                "seconds": round(self.seconds, 3), "stopped": self.stopped}

    def text(self) -> str:
        if self.stopped:
            return (f"stopped after {self.frames:,} pictures and frames, {self.looks:,} with those of before; all of "
                    "them are safe, the same command goes on")
        frames = self.looks - self.photographs
        lines = [f"{self.faces:,} faces in {self.photographs:,} photographs and {frames:,} frames of "
                 f"{self.videos:,} videos (tracks: {self.tracks:,}) -> {self.manifest}"]
        if self.enlarged:
            lines.append(f"{self.enlarged:,} faces are smaller than their crop and were enlarged (column scale)")
        if self.faceless:
            lines.append(f"no face in {len(self.faceless):,} sources: {_listed(self.faceless)}")
        lines += [f"{name}: {reason}" for name, reason in list(self.faults.items())[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"... and {len(self.faults) - SHOWN:,} more files at fault: see the column note")
        rate = self.frames / max(self.seconds, 1e-9)
        return "\n".join([*lines, f"{self.frames:,} looked at now, {rate:.1f} a second over {self.seconds:.1f} s"])


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def summary(faces: Manifest, path: Path, *, frames: int, seconds: float, stopped: bool) -> Cropped:
    """Counted from the rows."""
    table = faces.table
    seen = ~table["key"].str.endswith(NO_FACE_SUFFIX)
    video = table["frame"] != ""
    last = table.groupby("source")["note"].last()
    faults = {str(name): note.removeprefix(f"{NO_FACE}; ") for name, note in last.items() if note not in ("", NO_FACE)}
    unread = {name for name in faults if not (table["source"] == name).to_numpy()[seen | video].any()}
    sources = set(table["source"])
    return Cropped(
        manifest=path, photographs=len(set(table["source"][~video]) - unread),
        videos=len(set(table["source"][video])),
        looks=len(table[["source", "frame"]].drop_duplicates()) - len(unread), faces=int(seen.sum()),
        tracks=len(table[seen & video][["source", "track"]].drop_duplicates()),
        enlarged=int((table["scale"][seen].astype(float) > 1).sum()),
        faceless=tuple(sorted(sources - set(table["source"][seen]) - unread)), faults=faults, frames=frames,
        seconds=seconds, stopped=stopped)

"""What a crop has done so far, a line a look: it lets an interrupted one go on, and becomes the manifest at the end."""

import fcntl
import json
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO

from twofold.data.faces.detect import Detection
from twofold.data.faces.look import Face, Look
from twofold.data.faces.sources import Source
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import replace_file

NAME = ".journal.jsonl"


class Journal:
    """A file of lines that only grows; its images are written before a look's line is. One process at a time."""

    def __init__(self, folder: Path):
        """Open or begin the journal of a folder, and drop a last line that a crash cut off.

        Raises InputError where another process is at work.
        """
        self.path = folder / NAME
        self.file = self._opened(self.path)
        whole = 0
        for line in self.file:
            whole += len(line) if line.endswith(b"\n") else 0
        self.file.truncate(whole)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self.file.fileno())
        self.file.close()

    @staticmethod
    def _opened(path: Path) -> BinaryIO:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(f"{path.parent}: another crop is writing there: wait for it, or choose another -o"
                             ) from None
        except OSError:  # a file system without locks
            pass
        file.seek(0)
        return file

    def add(self, look: Look, sha256: str) -> None:
        """Note a look, all of whose images are files by now; sha256 is its source's."""
        faces = [{"box": face.detection.box, "landmarks": face.detection.landmarks, "score": face.detection.score,
                  "scale": face.scale, "padded": face.padded, "sharpness": face.sharpness, "track": face.track,
                  "bytes": len(face.content)} for face in look.faces]
        record = {"source": look.source.name, "video": look.source.video, "sha256": sha256, "frame": look.frame,
                  "time": look.time, "note": look.note, "last": look.last, "size": look.size, "faces": faces}
        self.file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n")
        self.file.flush()

    def forget(self, names: Set[str]) -> None:
        """Take out all looks of these sources."""
        if not names:
            return
        with replace_file(self.path) as temporary, self.path.open("rb") as old, temporary.open("wb") as new:
            new.writelines(line for line in old if json.loads(line)["source"] not in names)
        self.file.close()
        self.file = self._opened(self.path)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every source, by name."""
        return {record["source"]: record["sha256"] for record in self._lines()}

    def records(self) -> Iterator[tuple[Look, list[int]]]:
        """Every look in the order in which they were noted, and the sizes of its files; the images are not read."""
        for record in self._lines():
            faces = tuple(_face(face) for face in record["faces"])
            source = Source(record["source"], Path(), record["video"])
            size = record["size"] and (record["size"][0], record["size"][1])
            yield (Look(source, record["frame"], record["time"], faces, record["note"], record["last"], size),
                   [face["bytes"] for face in record["faces"]])

    def looks(self) -> Iterator[Look]:
        """Every look, in the order in which they were noted."""
        return (seen for seen, _ in self.records())

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise InputError(f"{self.path}: line {number} is damaged: choose another -o and crop again"
                                     ) from None


def _face(record: dict[str, Any]) -> Face:
    detection = Detection(tuple(record["box"]), tuple(map(tuple, record["landmarks"])), record["score"])
    return Face(detection, b"", record["scale"], record["padded"], record["sharpness"], record["track"])

"""The verb `crop`: photographs and videos to a folder of aligned faces and its manifest, with a journal to resume."""

import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from twofold.data.faces.align import TEMPLATE
from twofold.data.faces.detect import (
    IMAGES,
    DetectionConfig,
    Face,
    FrameDetections,
    Previous,
    detect_faces,
    face_rows,
    manifest_columns,
    rows_manifest,
)
from twofold.data.faces.detectors import Detection, DetectorModel
from twofold.data.faces.identity import Gallery, IdentityModel
from twofold.data.faces.settings import VERSION, CropSettings, Sampling
from twofold.data.faces.sources import Source
from twofold.data.faces.video import VideoError, VideoReader
from twofold.data.utils.atomic import atomic_write, publish, remove, temporary_file, try_lock, write_text
from twofold.data.utils.csv_files import table_to_csv
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX

FACES, FACTS, JOURNAL, TEMPORARY = "faces.csv", "crop.json", ".journal.jsonl", ".tmp-face"
WRITTEN = "faces_sha256"  #: in FACTS
CHUNK_ROWS = 5000  #: of faces.csv that are written together
SHOWN = 10  #: sources named in the report's text
LOG_SECONDS = 30  #: between progress lines where stderr is not a terminal


@dataclass(frozen=True)
class CropReport:
    """The result of `crop`. labelled: sources with a label; looks: photographs and frames in the manifest; frames_now:
    those of this run; faceless: sources without any face; faults: by source, why it could not be read, or not to its
    end; persons: how many there are, by the network and threshold in `identity`."""

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
    persons: int = 0
    identity: str = ""

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
        more, rate = len(self.faceless) - SHOWN, self.frames_now / max(self.seconds, 1e-9)
        lines = [
            (True, f"{self.faces:,} faces in {self.photographs:,} photographs and {self.looks - self.photographs:,} "
                   f"frames of {self.videos:,} videos (tracks: {self.tracks:,}) -> {self.manifest}"),
            (self.identity, f"{self.persons:,} persons, {self.identity}"),
            (self.labelled, f"{self.labelled:,} of {self.photographs + self.videos:,} sources have their folder's "
                            "label"),
            (self.enlarged, f"{self.enlarged:,} faces are smaller than their crop and were enlarged (column scale)"),
            (self.faceless, f"no face in {len(self.faceless):,} sources: {', '.join(self.faceless[:SHOWN])}"
                            f"{f' and {more:,} more' if more > 0 else ''}"),
            *((True, f"{name}: {reason}") for name, reason in list(self.faults.items())[:SHOWN]),
            (len(self.faults) > SHOWN,
             f"... and {len(self.faults) - SHOWN:,} more files at fault: see the column note"),
            (True, f"{self.frames_now:,} processed now, {rate:.1f} a second over {self.seconds:.1f} s")]
        return "\n".join(line for shown, line in lines if shown)


def crop(sources: Sequence[Source], out: Path, model: DetectorModel, *, settings: CropSettings, sampling: Sampling,
         workers: int = 0, overwrite: bool = False, progress: bool = True, identity: IdentityModel | None = None,
         by_person: bool = False) -> CropReport:
    """Detect and crop the faces of photographs and videos into a folder. The same call resumes an interrupted one.

    workers: threads, 0 for one a core; identity: tells people apart; by_person: they are the groups; overwrite: replace
    a faces.csv that was changed since. The folder may hold faces of other sources, cropped with the same settings: they
    stay in its manifest. Raises InputError for a folder with anything else in it, and faces cropped there with other
    settings, or from another file of the same name.
    """
    began, line = time.monotonic(), settings.to_line(model.sha256)
    _claim_folder(out, {
        "version": VERSION, "settings": asdict(settings), "sampling": asdict(sampling),
        "detector": {"name": model.name, "sha256": model.sha256}, "template": [list(point) for point in TEMPLATE],
        "line": line} | ({"identity": identity.record()} if identity else {}))
    with Journal(out) as journal:
        _check_unchanged(out, overwrite)
        digests = {source.name: source.sha256() for source in sources}
        finished, previous = _resume(journal, out, digests, settings)
        config, gallery = DetectionConfig(model, settings, sampling, workers, identity), Gallery()
        for entry, _ in journal.entries() if identity and identity.session else ():
            gallery.add(entry.sums)
        rest = [source for source in sources if source.name not in finished]
        frames, stopped, folders = 0, False, set()
        pace = 0.5 if os.isatty(2) else LOG_SECONDS
        try:
            with VideoReader(workers) as reader, tqdm(
                    total=sum(_expected_frames(source, sampling, reader) for source in rest), unit="frame",
                    desc="crop", dynamic_ncols=True, mininterval=pace, maxinterval=2 * pace, disable=not progress,
            ) as bar, closing(detect_faces(rest, config, previous, reader, gallery)) as detections:
                for entry in detections:
                    is_image = entry.frame is not None or not entry.source.video  # and not the end of a video
                    if entry.frame is None or entry.frame not in previous.get(entry.source.name, ()):
                        for number, face in enumerate(entry.faces):
                            key = entry.face_key(number, settings)
                            if (folder := os.path.dirname(key)) not in folders:
                                (out / folder).mkdir(parents=True, exist_ok=True)
                                if not (out / folder).resolve().is_relative_to(out.resolve()):
                                    raise InputError(f"{out / folder} is a link out of {out}: choose another -o")
                                folders.add(folder)
                            journal.write(key, face.content)
                        journal.add(entry, digests[entry.source.name])
                        frames += is_image
                    bar.update(is_image)
        except KeyboardInterrupt:
            stopped = True
        tally = _Tally()
        names, rows = _faces_table(journal, sources, settings, line, identity=identity, by_person=by_person)
        if stopped:
            deque(tally.count(rows), maxlen=0)
        else:
            _write_faces(out, tally.count(rows), names)
    return tally.report(manifest=out / FACES, frames_now=frames, seconds=time.monotonic() - began, stopped=stopped,
                        session=bool(identity and identity.session), identity=identity.text() if identity else "")


def _write_faces(out: Path, rows: Iterator[dict[str, str]], names: list[str]) -> None:
    """Write faces.csv, some rows at a time; one that says the same stays as it is."""
    with temporary_file(out) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            chunk = list(islice(rows, CHUNK_ROWS))
            while True:
                text = table_to_csv(rows_manifest(chunk, names).table)
                file.write(text if not file.tell() else text[text.index("\n") + 1:])
                if not (chunk := list(islice(rows, CHUNK_ROWS))):
                    break
        new, old = _digest(temporary), _digest(out / FACES)
        if new != old:
            _note_written(out, [old, new])  # before and after, so that a crash in between is no change by somebody else
            publish(temporary, out / FACES)
        _note_written(out, [new])


class _Tally:
    """Counts what `CropReport` says, of the rows of faces.csv, source by source, as they pass."""

    def __init__(self) -> None:
        self.seen, self.videos, self.labelled = set[str](), set[str](), set[str]()
        self.notes, self.tracks, self.persons = dict[str, str](), set[tuple[str, str]](), set[tuple[str, str]]()
        self.looks = self.faces = self.enlarged = 0

    def count(self, rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        """The rows, counted."""
        look = None
        for row in rows:
            name, (before, look) = row["source"], (look, (row["source"], row["frame"]))
            self.looks += before != look
            self.notes[name] = row["note"]
            if row.get("basic") or row.get("compound"):
                self.labelled.add(name)
            if row["frame"]:
                self.videos.add(name)
            if not row["key"].endswith(NO_FACE_SUFFIX):
                self.faces += 1
                self.enlarged += float(row["scale"]) > 1
                self.seen.add(name)
                if row["frame"]:
                    self.tracks.add((name, row["track"]))
                if row.get("person"):
                    self.persons.add((name, row["person"]))
            yield row

    def report(self, *, session: bool, **facts: Any) -> CropReport:
        """session: persons have one number in all sources; facts: the rest of the report."""
        faults = {name: note.removeprefix(f"{NO_FACE}; ") for name, note in sorted(self.notes.items())
                  if note not in ("", NO_FACE)}
        unread = set(faults) - self.seen - self.videos
        return CropReport(
            photographs=len(set(self.notes) - self.videos - unread), videos=len(self.videos),
            labelled=len(self.labelled), looks=self.looks - len(unread), faces=self.faces, tracks=len(self.tracks),
            enlarged=self.enlarged, faceless=tuple(sorted(set(self.notes) - self.seen - unread)), faults=faults,
            persons=len({person if session else (name, person) for name, person in self.persons}), **facts)


def _claim_folder(out: Path, facts: dict[str, Any]) -> None:
    """Write crop.json into an empty folder, or compare it: all that the faces depend on beside the images, no path and
    no time. Raises InputError for another folder, other settings, and links: somebody else's may name any file."""
    for name in (FACTS, FACES, JOURNAL, IMAGES):
        if (out / name).is_symlink():
            raise InputError(f"{out / name} is a link, and `crop` writes no file through a link: choose another -o")
    path = out / FACTS
    if not path.is_file():
        if (out.exists() or out.is_symlink()) and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is no folder of `crop`: choose another -o")
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(facts, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [f"{name} {before[part].get(name)} there, {value} here" for part in ("settings", "sampling", "detector")
                 for name, value in facts[part].items() if before[part].get(name) != value]
        if (there := before.get("identity")) != (here := facts.get("identity")):
            other.append(f"identity {there or 'off'} there, {here or 'off'} here")
        if before["version"] != facts["version"]:
            other.append(f"version {before['version']} there, {facts['version']} here")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not what `crop` wrote: choose another -o") from None
    if other:
        raise InputError(f"{out} has faces that were cropped otherwise ({'; '.join(other)}): choose another -o")


def _check_unchanged(out: Path, overwrite: bool) -> None:
    """Raises InputError for a faces.csv that was changed since: labels that somebody added would be lost."""
    path = out / FACES
    if not overwrite and path.exists() and _digest(path) not in json.loads((out / FACTS).read_text()).get(WRITTEN, []):
        raise InputError(f"{path} was changed since `crop` wrote it: --overwrite replaces it, or give it another name")


def _digest(path: Path) -> str:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _note_written(out: Path, digests: Sequence[str]) -> None:
    """Keep in crop.json the SHA-256 that faces.csv may have."""
    facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
    if facts.get(WRITTEN) != digests:
        write_text(out / FACTS, json.dumps(facts | {WRITTEN: digests}, indent=2) + "\n")


def _resume(journal: "Journal", out: Path, digests: Mapping[str, str], settings: CropSettings
            ) -> tuple[set[str], Mapping[str, Previous]]:
    """Names of finished sources, and the frames of the others that are done, of those with these SHA-256. The files
    decide: a source with a missing file, or one of another length than was written, is forgotten. Raises InputError for
    a source whose file is another than before."""
    previous = dict[str, dict[int, Callable[[], FrameDetections]]]()
    finished, damaged = set[str](), set[str]()
    for entry, record in journal.entries():
        name = entry.source.name
        if digests.get(name, record["sha256"]) != record["sha256"]:
            raise InputError(f"{out} has the faces of another file that is called {name}: choose another -o")
        paths = (out / entry.face_key(number, settings) for number in range(len(entry.faces)))
        if name not in digests or name in damaged:
            continue
        if any(not path.is_file() or path.stat().st_size != face["bytes"]
               for path, face in zip(paths, record["faces"], strict=True)):
            damaged.add(name)
        elif entry.last:
            finished.add(name)
        elif entry.frame is not None:
            previous.setdefault(name, {})[entry.frame] = partial(journal.entry, record["at"])
    if damaged:
        journal.forget(damaged)
        return _resume(journal, out, digests, settings)
    return finished, {name: places for name, places in previous.items() if name not in finished}


def _expected_frames(source: Source, sampling: Sampling, reader: VideoReader) -> int:
    """1 for a photograph; for a video what its header promises."""
    with suppress(VideoError):
        if source.video:
            facts = reader.facts(source.path)
            every = facts.rate / sampling.fps if facts.rate > sampling.fps > 0 else sampling.every
            return math.ceil(facts.frames / every)
    return 1


class Journal(AbstractContextManager):
    """A line for each photograph and frame done, appended after its images are written. One process at a time."""

    def __init__(self, folder: Path):
        """Open or create the journal of a folder, and drop a last line that a crash cut off. Raises InputError where
        another process writes."""
        self.path, self.folder, self._temporary = folder / JOURNAL, str(folder), str(folder / TEMPORARY)
        self._open()
        remove(folder / TEMPORARY)
        self.file.truncate(sum(len(line) for line in self.file if line.endswith(b"\n")))

    def _open(self) -> None:
        self.file = self.path.open("a+b")
        if not try_lock(self.file.fileno(), unknown=True):
            self.file.close()
            raise InputError(f"{self.path.parent}: another crop is writing there: wait for it, or choose another -o")
        self.file.seek(0)

    def __exit__(self, *_: object) -> None:
        os.fsync(self.file.fileno())
        self.file.close()

    def write(self, key: str, content: bytes) -> None:
        """Write an image, whole or not at all; there is one writer, so no lock is needed and no name of its own."""
        with open(self._temporary, "xb", buffering=0) as file:
            file.write(content)
        os.replace(self._temporary, f"{self.folder}/{key}")

    def add(self, entry: FrameDetections, sha256: str) -> None:
        """Append a photograph or frame, all of whose images are written; sha256 is its source's."""
        faces = [vars(face.detection) | {"scale": face.scale, "padded": face.padded, "sharpness": face.sharpness,
                                           "track": face.track, "bytes": len(face.content)} for face in entry.faces]
        record = {"source": entry.source.name, "video": entry.source.video, "sha256": sha256, "frame": entry.frame,
                  "time": entry.time, "note": entry.note, "last": entry.last, "size": entry.size,
                  "labels": dict(entry.source.labels), "faces": faces}
        if entry.persons:
            record |= {"persons": dict(entry.persons), "sums": {
                person: total.astype(float).tolist() for person, total in entry.sums.items()}}
        self.file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n")
        self.file.flush()

    def forget(self, names: Set[str]) -> None:
        """Remove all lines of these sources."""
        with atomic_write(self.path) as temporary, self.path.open("rb") as old, temporary.open("wb") as new:
            new.writelines(line for line in old if json.loads(line)["source"] not in names)
        self.file.close()
        self._open()

    def entries(self, spans: Iterable[Sequence[int]] = ((0, -1),)) -> Iterator[tuple[FrameDetections, dict[str, Any]]]:
        """Every photograph and frame in order, without the images, and its record, which has its place, `at`. spans: of
        bytes, instead of all."""
        with self.path.open("rb") as file:
            for place, end in spans:
                file.seek(place)
                while place != end and (line := file.readline()):
                    yield _read_entry(line, place, self.path)
                    place += len(line)

    def entry(self, place: int) -> FrameDetections:
        """That of the line at this byte."""
        return next(self.entries([(place, -1)]))[0]


def _read_entry(line: bytes, place: int, path: Path) -> tuple[FrameDetections, dict[str, Any]]:
    try:
        record = json.loads(line) | {"at": place, "length": len(line)}
    except ValueError:
        raise InputError(f"{path}: the line at byte {place} is damaged: choose another -o and crop again") from None
    faces = tuple(Face(Detection(tuple(face["box"]), tuple(map(tuple, face["landmarks"])), face["score"]), b"",
                       face["scale"], face["padded"], face["sharpness"], face["track"]) for face in record["faces"])
    size = record["size"] and (record["size"][0], record["size"][1])
    persons = {int(track): person for track, person in record.get("persons", {}).items()}
    sums = {int(person): np.array(total, np.float32) for person, total in record.get("sums", {}).items()}
    return FrameDetections(Source(record["source"], Path(), record["video"], record["labels"]), record["frame"],
                           record["time"], faces, record["note"], record["last"], size, persons=persons,
                           sums=sums), record


def _faces_table(journal: Journal, sources: Sequence[Source], settings: CropSettings, line: str, *,
                 identity: IdentityModel | None, by_person: bool) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Columns and rows of faces.csv, by source in order of their names. These sources, whose labels may have changed,
    take the place of those of their names. Holds a line at a time, and where in the journal each source's are."""
    current, spans, ends = {source.name: source for source in sources}, dict[str, list[list[int]]](), {}
    labels = dict[str, None]()
    for entry, record in journal.entries():
        source, start = current.setdefault(entry.source.name, entry.source), record["at"]
        own = spans.setdefault(source.name, [[start, start]])
        if own[-1][1] != start:
            own.append([start, start])
        own[-1][1] += record["length"]
        labels |= dict.fromkeys(source.labels)
        if entry.last and source.video:
            ends[source.name] = replace(entry, sums={})

    def rows() -> Iterator[dict[str, str]]:
        for name in sorted(spans):
            entries = (replace(entry, source=current[name]) for entry, _ in journal.entries(spans[name]))
            yield from face_rows(entries, ends, settings, line, identity=identity, by_person=by_person)

    return manifest_columns(labels, identity), rows()

"""The verb `crop`: photographs and videos to a folder of aligned faces and the manifest of them."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from twofold.data.faces.align import TEMPLATE
from twofold.data.faces.detect import DetectorModel
from twofold.data.faces.journal import Journal
from twofold.data.faces.look import Look, Search, look
from twofold.data.faces.report import Cropped, summary
from twofold.data.faces.rows import face_key, table
from twofold.data.faces.settings import VERSION, CropSettings, Sampling
from twofold.data.faces.sources import Source, find_sources
from twofold.data.faces.video import VideoError, video_facts
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import replace_file, write_image

FACES, FACTS = "faces.csv", "crop.json"
LOG_SECONDS = 30  #: between progress lines where stderr is not a terminal


@dataclass(frozen=True, kw_only=True)
class CropRequest:
    """What to crop, and into which folder. workers: threads, 0 takes one a core."""

    inputs: Sequence[Path]
    out: Path
    settings: CropSettings
    sampling: Sampling
    workers: int = 0
    overwrite: bool = False  #: a faces.csv that somebody has changed


def crop(request: CropRequest, model: DetectorModel, *, progress: bool = True) -> Cropped:
    """Find and cut the faces of all inputs. The same request goes on where an interrupted one ended.

    The folder may hold faces of other inputs, cropped with the same settings: they stay in its manifest.
    Raises InputError for inputs that are not there, a folder with anything else in it, faces cropped there with other
    settings, or from another file of the same name.
    """
    began, out = time.monotonic(), request.out
    sources = find_sources(request.inputs, ignore=out)
    facts = _facts(request, model)
    _claim(out, facts)
    with Journal(out) as journal:
        _require_unchanged(out / FACES, table(journal.looks(), request.settings, facts["line"]), request.overwrite)
        digests = _digests(sources)
        _require_same_files(out, journal, digests)
        finished, begun = _so_far(journal, out, sources, request.settings)
        rest = [source for source in sources if source.name not in finished]
        search = Search(model, request.settings, request.sampling, request.workers)
        frames, stopped = 0, False
        try:
            with _bar(rest, request.sampling, progress) as bar, closing(look(rest, search, begun)) as looks:
                for seen in looks:
                    picture = seen.frame is not None or not seen.source.video  # and not the end of a video
                    if (seen.source.name, seen.frame) not in begun:
                        _keep(seen, out, request.settings, journal, digests)
                        frames += picture
                    bar.update(picture)
        except KeyboardInterrupt:
            stopped = True
        faces = table(journal.looks(), request.settings, facts["line"])
    if not stopped:
        write_manifest(faces, out / FACES)
    return summary(faces, out / FACES, frames=frames, seconds=time.monotonic() - began, stopped=stopped)


def _facts(request: CropRequest, model: DetectorModel) -> dict[str, Any]:
    """crop.json: all that the faces depend on beside the pictures. No path, no time."""
    settings = asdict(request.settings)
    return {"version": VERSION, "settings": settings, "sampling": asdict(request.sampling),
            "detector": {"name": "yunet", "sha256": model.sha256}, "template": [list(point) for point in TEMPLATE],
            "line": request.settings.line(model.sha256)}


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Make the folder ours, or see that it is, and was begun with the same settings. Raises InputError."""
    path = out / FACTS
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is no folder of `crop`: choose another -o")
        out.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [f"{name} {before[part][name]} there, {value} here" for part in ("settings", "sampling", "detector")
                 for name, value in facts[part].items() if before[part].get(name) != value]
        if before["version"] != facts["version"]:
            other.append(f"version {before['version']} there, {facts['version']} here")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not what `crop` wrote: choose another -o") from None
    if other:
        raise InputError(f"{out} has faces that were cropped otherwise ({'; '.join(other)}): choose another -o")


def _require_unchanged(path: Path, faces: Manifest, overwrite: bool) -> None:
    """Raises InputError for a manifest that is not what was written: labels that somebody has added would be lost."""
    if overwrite or not path.exists():
        return
    there = read_manifest(path).table
    rows = {row[0]: row for row in faces.table.itertuples(index=False, name=None)}  # less what a crash cut off
    labelled = (there[["split", "basic", "compound"]] != "").any(axis=None)
    if labelled or list(there) != list(faces.table) or any(
            rows.get(row[0], row) != row for row in there.itertuples(index=False, name=None)):
        raise InputError(f"{path} was changed since `crop` wrote it: --overwrite replaces it, or give it another name")


def _digests(sources: Sequence[Source]) -> dict[str, str]:
    digests = {}
    for source in sources:
        try:
            digests[source.name] = source.sha256()
        except OSError:  # a look at it will say why
            digests[source.name] = "unreadable"
    return digests


def _require_same_files(out: Path, journal: Journal, digests: Mapping[str, str]) -> None:
    for name, sha256 in journal.digests().items():
        if digests.get(name, sha256) != sha256:
            raise InputError(f"{out} has the faces of another file that is called {name}: choose another -o")


def _so_far(journal: Journal, out: Path, sources: Sequence[Source], settings: CropSettings
            ) -> tuple[set[str], dict[tuple[str, int], Look]]:
    """Sources that are finished, and the looks of those that were only begun.

    What counts is what is there: a source of whose files one is missing, or not as long as it was, is forgotten.
    """
    here = {source.name: source for source in sources}
    finished, begun, damaged = set(), {}, set()
    for seen, sizes in journal.records():
        name = seen.source.name
        if name not in here or name in damaged:
            continue
        paths = [out / face_key(seen, place, settings) for place in range(len(seen.faces))]
        if any(_size(path) != size for path, size in zip(paths, sizes, strict=True)):
            damaged.add(name)
        elif seen.last:
            finished.add(name)
        elif seen.frame is not None:
            begun[name, seen.frame] = seen
    journal.forget(damaged)
    finished -= damaged
    return finished, {place: seen for place, seen in begun.items() if place[0] not in finished | damaged}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _keep(seen: Look, out: Path, settings: CropSettings, journal: Journal, digests: Mapping[str, str]) -> None:
    """Write the images of a look, then its line."""
    for place, face in enumerate(seen.faces):
        path = out / face_key(seen, place, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, face.content)
    journal.add(seen, digests[seen.source.name])


def _bar(sources: Sequence[Source], sampling: Sampling, progress: bool) -> tqdm:
    """Frames a second and time left; how many frames videos have is what they say."""
    pace = 0.5 if os.isatty(2) else LOG_SECONDS
    return tqdm(total=sum(_expected(sources, sampling)), unit="frame", desc="crop", dynamic_ncols=True,
                mininterval=pace, maxinterval=2 * pace, disable=not progress)


def _expected(sources: Sequence[Source], sampling: Sampling) -> Iterator[int]:
    for source in sources:
        try:
            facts = video_facts(source.path) if source.video else None
        except VideoError:
            facts = None
        if facts is None:
            yield 1
        elif sampling.fps and facts.rate > sampling.fps:
            yield round(facts.frames * sampling.fps / facts.rate)
        else:
            yield -(-facts.frames // sampling.every)

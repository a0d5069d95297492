"""Videos as time series: rows at a regular rate, and events (onset, apex, offset), as a table, WebVTT or ELAN."""

from collections.abc import Sequence
from html import escape
from mimetypes import guess_type
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE
from twofold.data.utils.outputs import Output, OutputKind, read_head, read_header
from twofold.fuse.answers import NONE, UNCERTAIN
from twofold.fuse.smoothing import STANDALONE, sequences

SUBTITLES = (".vtt", ".eaf")
MARK = "written by twofold predict"  #: in these files, so that a later run recognises them
MAX_RATE = 1000.0  #: rows a second
MAX_ROWS = 5_000_000


class Event(NamedTuple):
    """A run of frames of a person with one answer, or likeliest basic expression (kind). Times in seconds."""

    source: str
    person: str
    kind: str
    name: str
    onset: float
    apex: float
    offset: float
    peak: float
    frames: int


EVENTS = OutputKind("events of `predict`", lambda path: MARK in read_head(path) if path.suffix.lower() in SUBTITLES
                    else tuple(read_header(path)) == Event._fields)


def check_rate(rate: float | None) -> None:
    """Raises InputError for rows a second that cannot be."""
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise InputError(f"--hz {rate:g}: give the rows a second that you want, above 0 and at most {MAX_RATE:g}")


def require_videos(samples: pd.DataFrame, option: str) -> None:
    """Raises InputError where no sample is a frame of a video."""
    if not {"source", "frame", "time", "track"} <= set(samples) or (samples["frame"] == "").all():
        raise InputError(f"{option} is of videos, and there is none among the inputs")


def resample(samples: pd.DataFrame, values: np.ndarray, rate: float) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows at `rate` a second for each person of each video, from its first frame to its last, and their values (M, K).

    The row at time t = k / rate has the means of values (N, K) over the frames from t - 1/2 rate to t + 1/2 rate, and
    the key and number of the first of these. Where the person is in none of them it has nan and no key: a gap stays a
    gap. Photographs stay as they are. Raises InputError where the rows would be far too many.
    """
    groups, video = sequences(samples), (samples["frame"] != "").to_numpy()
    clock = samples["time"].where(video, "0").astype(float).to_numpy()
    parts, means = [samples[~video]], [values[~video]]
    for source in samples["source"][video].unique():
        frames = video & (samples["source"] == source).to_numpy()
        count = int(np.floor(clock[frames].max() * rate + 0.5)) + 1
        for name in dict.fromkeys(groups[frames & (groups != STANDALONE)]):
            rows = np.flatnonzero(frames & (groups == name))
            if count * len(means) > MAX_ROWS:
                raise InputError(f"--hz {rate:g}: more than {MAX_ROWS:,} rows, of {source} and others")
            place, own = np.floor(clock[rows] * rate + 0.5).astype(int), values[rows]
            total, number = np.zeros((2, count, values.shape[1]))
            np.add.at(total, place, np.nan_to_num(own))
            np.add.at(number, place, ~np.isnan(own))
            means.append(np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0))
            seen = samples.iloc[rows[~np.isnan(own[:, 0])] if not np.isnan(own[:, 0]).all() else rows]
            first = seen.groupby(np.floor(seen["time"].astype(float) * rate + 0.5).astype(int)).first()
            part = first.reindex(range(count))
            for column in ("source", "person" if "person" in part else "track"):
                part[column] = seen[column].iloc[0]
            part["time"] = [f"{number / rate:.6f}" for number in range(count)]
            parts.append(part.fillna(""))
    return pd.concat(parts, ignore_index=True), np.concatenate(means)


def find_events(table: pd.DataFrame) -> list[Event]:
    """The events in a table of `predict`, by onset.

    An event is a run of successive frames of a person with the same answer (kind `expression`), or the same likeliest
    basic expression (`basic`): it begins with its first frame (onset), ends where the next frame begins (offset), and
    is at its apex in the frame where the probability of the class is largest, its peak. A frame in which the person is
    not seen ends it; `none`, `uncertain` and `no face` make none. Times are seconds of the video.
    """
    events: list[Event] = []
    video = table[table["frame"] != ""]
    for source, frames in video.groupby("source", sort=False):
        clock = np.unique(frames["time"].astype(float))
        step = float(np.median(np.diff(clock))) if len(clock) > 1 else 0.0
        ends = np.append(clock[1:], clock[-1] + step)
        who = "person" if "person" in frames else "track"
        for person, rows in frames[frames["prediction"] != NO_FACE].groupby(who, sort=False):
            ordered = rows.assign(at=np.searchsorted(clock, rows["time"].astype(float))).sort_values("at")
            for kind, column in (("expression", "prediction"), ("basic", "basic")):
                if column not in ordered:
                    continue
                turns = (ordered[column] != ordered[column].shift()) | (ordered["at"].diff() != 1)
                for _, run in ordered.groupby(turns.cumsum(), sort=False):
                    name = run[column].iloc[0]
                    if name in (NONE, UNCERTAIN, ""):
                        continue
                    scores, at = run[name].astype(float).to_numpy(), run["at"].to_numpy()
                    events.append(Event(str(source), str(person), kind, name, float(clock[at[0]]),
                                        float(clock[at[scores.argmax()]]), float(ends[at[-1]]), float(scores.max()),
                                        len(run)))
    return sorted(events, key=lambda event: (event.source, event.onset, event.person))


def write_events(table: pd.DataFrame, out: Output) -> int:
    """Write the events of a table of `predict` as the file's name says: CSV, WebVTT or ELAN; returns how many they are.

    Raises InputError for subtitles of several videos.
    """
    events, suffix = find_events(table), out.path.suffix.lower()
    videos = table["source"][table["frame"] != ""].unique()
    if suffix in SUBTITLES and len(videos) > 1:
        raise InputError(f"{out.path} is of one video, and there are {len(videos)}: give one, or a .csv file")
    if suffix == ".vtt":
        cues = [f"{' --> '.join(map(_clock, _span(event)))}\n<v person {event.person}, {event.kind}>"
                f"{escape(event.name.replace('_', ' '), quote=False)} {100 * event.peak:.0f} %\n"
                for event in events]
        out.write_text("\n".join(["WEBVTT\n", f"NOTE {MARK}\n", *cues]))
    elif suffix == ".eaf":
        out.write_text(_elan(events, str(videos[0])))
    else:
        with out.writing() as temporary:
            rows = pd.DataFrame(events, columns=list(Event._fields))
            rows.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6f")
    return len(events)


def check_events_name(path: Path) -> None:
    """Raises InputError for a file that events are not written as."""
    if path.suffix.lower() not in (*SUBTITLES, ".csv"):
        raise InputError(f"{path}: events are written as .csv, .vtt or .eaf: choose one of these names")


def _span(event: Event) -> tuple[int, int]:
    """Milliseconds of its onset and offset, which are never the same: neither format has events of no length."""
    onset = round(1000 * event.onset)
    return onset, max(onset + 1, round(1000 * event.offset))


def _clock(milliseconds: int) -> str:
    return (f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d}."
            f"{milliseconds % 1000:03d}")


def _elan(events: Sequence[Event], video: str) -> str:
    """An ELAN document (EAF 3.0) of one video, a tier for each person and kind of event.

    Slots are in order of time, each of one annotation: who moves a shared one in ELAN moves both annotations.
    """
    document = ElementTree.Element("ANNOTATION_DOCUMENT", {
        "AUTHOR": MARK, "DATE": "2000-01-01T00:00:00+00:00", "FORMAT": "3.0", "VERSION": "3.0",
        "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"})
    header = ElementTree.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=f"./{Path(video).name}",
                           MIME_TYPE=guess_type(video)[0] or "unknown", RELATIVE_MEDIA_URL=f"./{Path(video).name}")
    order = ElementTree.SubElement(document, "TIME_ORDER")
    ends = sorted((moment, number, end) for number, event in enumerate(events)
                  for end, moment in enumerate(_span(event)))
    slots = {(number, end): f"ts{place}" for place, (_, number, end) in enumerate(ends, 1)}
    for (moment, *_), slot in zip(ends, slots.values(), strict=True):
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(moment))
    tiers = dict[str, ElementTree.Element]()
    for number, event in enumerate(events):
        name = f"person {event.person} {event.kind}"
        if name not in tiers:
            tiers[name] = ElementTree.SubElement(document, "TIER", LINGUISTIC_TYPE_REF="default", TIER_ID=name)
        annotation = ElementTree.SubElement(
            ElementTree.SubElement(tiers[name], "ANNOTATION"), "ALIGNABLE_ANNOTATION", ANNOTATION_ID=f"a{number + 1}",
            TIME_SLOT_REF1=slots[number, 0], TIME_SLOT_REF2=slots[number, 1])
        ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = event.name
    ElementTree.SubElement(document, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="default",
                           TIME_ALIGNABLE="true")
    ElementTree.indent(document)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(document, encoding="unicode") + "\n"

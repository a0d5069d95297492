"""What was done: classes, head, encoders with their weights and licences, faces of each side, notes."""

from collections.abc import Mapping
from html import escape
from typing import Any

from twofold.fuse.report.content import RunContent, stream_mark
from twofold.fuse.report.markup import table
from twofold.fuse.tables.figures import UNTRAINED

NOT_STATED = "not stated"


def done_section(run: RunContent, licences: Mapping[str, str]) -> list[str]:
    """The head of a run's part of the page. licences: of encoders, by backbone, where they are known."""
    record = run.record
    streams = [(str(stream["backbone"]) + stream_mark(stream), str(stream["view"]), str(stream["dim"]),
                str(stream["recipe"]["weights"])[:15], _licence(stream, licences)) for stream in record["streams"]]
    warn = [f'<p class="warn">{escape(UNTRAINED)}</p>'] if run.mark else []
    counts = [(f"fold {number}" if len(record["faces"]) > 1 else "split",
               *(str(side[name]) for name in ("train", "val", "test"))) for number, side in enumerate(record["faces"])]
    return [*warn, f"<p>Classes {escape(str(record['classes_name']))}, head {escape(str(record['head']['kind']))}, "
                   f"trained {escape(str(record['created']))} in {record['seconds']:.1f} s.</p>",
            table("Encoders", ("backbone", "view", "dim", "weights", "licence"), streams),
            table("Faces", ("", "train", "validation", "test"), counts),
            "<ul>" + "".join(f"<li>{escape(str(note))}</li>" for note in record["notes"]) + "</ul>"]


def _licence(stream: dict[str, Any], licences: Mapping[str, str]) -> str:
    return "random numbers: none" if stream_mark(stream) else licences.get(
        str(stream["backbone"]), NOT_STATED)

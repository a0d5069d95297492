"""The faces to look at: the surest errors and the least sure, by key, and with a root as small pictures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from twofold.data.images.decode import ImageError, thumbnail
from twofold.data.images.sources import ImageSource
from twofold.fuse.report.content import Answers, RunContent
from twofold.fuse.report.markup import table

SHOWN = 15  #: faces in each list
SIDE = 96  #: pixels of a thumbnail, at most
PERSONAL = ("This page holds pictures of faces: personal data, which the licence of the data set and the law where you "
            "are may forbid you to pass on.")


@dataclass(frozen=True)
class Pictures:
    """Where thumbnails come from. uris: those read already, by key; an empty text for a picture that cannot be read."""

    source: ImageSource
    uris: dict[str, str] = field(default_factory=dict)

    def uri(self, key: str) -> str:
        """The face as a JPEG data URI within `SIDE` x `SIDE` pixels, without metadata; empty if it cannot be read."""
        if key not in self.uris:
            try:
                content = thumbnail(self.source.read(key), side=SIDE, limits=self.source.limits)
                self.uris[key] = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
            except ImageError:
                self.uris[key] = ""
        return self.uris[key]


def surest_errors(answers: Answers) -> list[int]:
    """Rows of wrong calls, the surest first."""
    return [int(row) for row in np.argsort(-answers.confidence, kind="stable") if answers.wrong[row]][:SHOWN]


def least_sure(answers: Answers) -> list[int]:
    """Rows of whatever is called with the least probability, that first."""
    return [int(row) for row in np.argsort(answers.confidence, kind="stable")][:SHOWN]


def shown_keys(runs: Sequence[RunContent]) -> list[str]:
    """The keys of all faces that the page shows."""
    return list(dict.fromkeys(run.answers.keys[row] for run in runs
                              for rows in (surest_errors(run.answers), least_sure(run.answers)) for row in rows))


def faces_section(run: RunContent, pictures: Pictures | None) -> list[str]:
    """Both lists."""
    lists = (("The surest errors", surest_errors(run.answers)), ("The least sure", least_sure(run.answers)))
    return [f"<h3>Faces to look at{run.mark}</h3>",
            *(_gallery(caption, run, rows, pictures) if pictures else _listed(caption, run, rows)
              for caption, rows in lists if rows)]


def _listed(caption: str, run: RunContent, rows: Sequence[int]) -> str:
    answers = run.answers
    return table(caption, ("face", "truth", "called", "probability"), [
        (answers.keys[row], run.classes[answers.truth[row]], run.classes[answers.calls[row]],
         f"{answers.confidence[row]:.2f}") for row in rows])


def _gallery(caption: str, run: RunContent, rows: Sequence[int], pictures: Pictures) -> str:
    items = "".join(_item(run, row, pictures.uri(run.answers.keys[row])) for row in rows)
    return f'<h4>{escape(caption)}</h4><ul class="faces">{items}</ul>'


def _item(run: RunContent, row: int, uri: str) -> str:
    answers, key = run.answers, escape(run.answers.keys[row])
    truth, call = (escape(run.classes[number]) for number in (answers.truth[row], answers.calls[row]))
    picture = f'<img src="{uri}" alt="{key}">' if uri else '<p class="warn">no picture</p>'
    caption = (f"<b>{call}</b> {answers.confidence[row]:.2f}<br>truth: {truth}" if answers.wrong[row]
               else f"<b>{call}</b> {answers.confidence[row]:.2f}, rightly")
    return f"<li>{picture}{caption}<br><small>{key}</small></li>"

"""What `predict` draws beside its table: a timeline of the scores, and the answers in the video itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.faces.annotate import ANNOTATED, annotate
from twofold.data.faces.sources import Source
from twofold.data.faces.timeline import TIMELINE, draw_timeline
from twofold.data.utils.csv_files import read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output


@dataclass(frozen=True)
class Drawing:
    """timeline: a PNG file; annotate: a video. None is not drawn. overwrite: older ones of ours."""

    timeline: Path | None = None
    annotate: Path | None = None
    overwrite: bool = False

    @property
    def wanted(self) -> bool:
        return bool(self.timeline or self.annotate)

    def check(self, sources: Sequence[Source], out: Path, *, submission: bool) -> None:
        """Raises InputError, before anything is computed, for what could not be drawn or would overwrite an input."""
        videos = [source for source in sources if source.video]
        files = {"--timeline": self.timeline, "--annotate": self.annotate}
        for option, path in files.items():
            if path is None:
                continue
            if path.resolve() == out.resolve():
                raise InputError(f"{option} {path} is the table, too: choose another name")
            if not videos:
                raise InputError(f"{option}: there is no video among the inputs")
            if submission:
                raise InputError(f"{option} needs the table of scores: leave out --submission")
        if self.timeline and self.timeline.suffix.lower() != ".png":
            raise InputError(f"--timeline {self.timeline}: the timeline is a .png file")
        if self.annotate and self.annotate.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise InputError(f"--annotate {self.annotate}: a .mp4, .mkv or .mov file can be written")
        if self.annotate and len(videos) > 1:
            raise InputError(f"--annotate writes one video, and there are {len(videos)} among the inputs")
        for output in (self._timeline(sources), self._annotated(sources)):
            if output:
                output.check()

    def draw(self, sources: Sequence[Source], out: Path, classes: Sequence[str]) -> None:
        """Draw from the table that `predict` wrote to `out`."""
        if not self.wanted:
            return
        table = read_table(out)
        if timeline := self._timeline(sources):
            draw_timeline(table, classes, timeline)
        if annotated := self._annotated(sources):
            source = next(source for source in sources if source.video)
            annotate(source.path, table[table["source"] == source.name], classes, annotated)

    def _timeline(self, sources: Sequence[Source]) -> Output | None:
        return self.timeline and Output(self.timeline, TIMELINE, self.overwrite, [source.path for source in sources])

    def _annotated(self, sources: Sequence[Source]) -> Output | None:
        return self.annotate and Output(self.annotate, ANNOTATED, self.overwrite, [source.path for source in sources])

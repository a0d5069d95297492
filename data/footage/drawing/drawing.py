"""What `predict` draws beside its table: a timeline of the scores, and the answers in the video itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.errors import InputError
from twofold.data.footage.drawing.annotate import annotate
from twofold.data.footage.drawing.timeline import draw_timeline
from twofold.data.footage.sources import Source
from twofold.data.manifest import read_table


@dataclass(frozen=True)
class Drawing:
    """timeline: a PNG file; annotate: a video. None is not drawn."""

    timeline: Path | None
    annotate: Path | None

    def check(self, sources: Sequence[Source], out: Path, *, submission: bool) -> None:
        """Raises InputError, before anything is computed, for what could not be drawn or would overwrite an input."""
        videos = [source for source in sources if source.video]
        files = {"--timeline": self.timeline, "--annotate": self.annotate}
        for option, path in files.items():
            if path is None:
                continue
            if not path.parent.is_dir() or path.is_dir():
                raise InputError(f"{option} {path}: cannot be written: "
                                 f"{'it is a folder' if path.is_dir() else 'no such folder'}")
            if path.resolve() in {out.resolve(), *(source.path for source in sources)}:
                raise InputError(f"{option} {path} is an input, or the table: choose another name")
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

    def draw(self, sources: Sequence[Source], out: Path, classes: Sequence[str]) -> None:
        """Draw from the table that `predict` wrote to `out`."""
        if not (self.timeline or self.annotate):
            return
        table = read_table(out)
        if self.timeline:
            draw_timeline(table, classes, self.timeline)
        if self.annotate:
            source = next(source for source in sources if source.video)
            annotate(source.path, table[table["source"] == source.name], classes, self.annotate)

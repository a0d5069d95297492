"""What a run says of its store, beside what its folder holds."""

from dataclasses import dataclass
from pathlib import Path

from twofold.fuse.report.content import RunContent
from twofold.fuse.report.embedding import Embedding, embed
from twofold.fuse.report.streams import StreamParts, question_of, scored_rows, stream_parts


@dataclass(frozen=True, eq=False)
class StoredContent:
    """embedding: None for too few faces."""

    streams: StreamParts
    embedding: Embedding | None


def read_stored(run: RunContent, store: Path) -> StoredContent | None:
    """Run the head on those faces of the store that it was scored on; None for a run that scored none.

    Raises InputError or CacheError for a store without these faces, or without features of the run's recipes.
    """
    if not run.systems:
        return None
    question = question_of(run, store)
    scorable = scored_rows(run, question)
    return StoredContent(stream_parts(run, question, scorable), embed(run, question, scorable))

"""The schema of a run's files: types and bounds of all that is written and read, since a run may be a stranger's."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.core.kinds import Classification
from twofold.fuse.core.settings import HEAD_TYPES, RULES
from twofold.fuse.core.task import Task

VERSION = 1
RECORD, HEAD, METRICS, PREDICTIONS, HISTORY, SEEN = (
    "run.json", "head.safetensors", "metrics.json", "predictions.csv", "history.csv", "seen.csv")
FILES = (RECORD, HEAD, METRICS, PREDICTIONS, HISTORY, SEEN)
MAX_BYTES = {RECORD: 32 << 20, HEAD: 1 << 40, METRICS: 32 << 20, PREDICTIONS: 1 << 31, HISTORY: 1 << 30, SEEN: 1 << 31}
MAX_OUTPUTS = 1_000_000  #: members x classes of a head

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Names = Annotated[list[Name], Meta(min_length=1, max_length=256)]
Classes = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=500)]
Count = Annotated[int, Meta(ge=0, le=10**9)]
Dim = Annotated[int, Meta(ge=1, le=65_536)]
Width = Annotated[int, Meta(ge=1, le=1_000_000)]
Fraction = Annotated[float, Meta(ge=-1e-6, le=1 + 1e-6)]
Fractions = Annotated[list[Fraction], Meta(max_length=100_000)]
Temperature = Annotated[float, Meta(ge=1e-3, le=1e3)]
Seconds = Annotated[float, Meta(ge=0, lt=1e12)]
Bins = Annotated[list[Annotated[float, Meta(ge=0, le=1e9)]], Meta(min_length=15, max_length=15)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
BOUNDS: dict[float, Any] = {1.0: Fraction, 2.0: Annotated[float, Meta(ge=-1 - 1e-6, le=1 + 1e-6)]}  #: by a scale's span
Interval = tuple[Number, Number] | None
T = TypeVar("T")


class StreamRecord(Struct, frozen=True):
    """One backbone and view. folds: the recipes of encoders that were fine-tuned one per fold."""

    backbone: Name
    view: Name
    dim: Dim
    fingerprint: Name
    recipe: dict[str, Any]
    inputs: list[dict[str, Any]]
    folds: Annotated[list[dict[str, Any]], Meta(max_length=1000)] = []


class HeadRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `Spec`."""

    kind: Name
    dims: Annotated[tuple[Dim, ...], Meta(min_length=1, max_length=256)]
    classes: Classes
    members: Annotated[int, Meta(ge=1, le=100_000)]
    hidden: Width
    dropout: Annotated[float, Meta(ge=0, lt=1)]
    projection: Width
    rule: Name
    own: bool
    pairs: list[list[Name]]
    task: Name = Classification.kind
    pieces: Annotated[tuple[Annotated[tuple[Dim, ...], Meta(min_length=1, max_length=10_000)], ...],
                      Meta(max_length=256)] = ()
    frames: bool = False
    views: Annotated[int, Meta(ge=1, le=256)] = 1

    def __post_init__(self) -> None:
        if self.pieces and tuple(map(sum, self.pieces)) != self.dims:
            raise ValueError("the pieces are not those of its streams")
        parts = [part.partition(":") for part in self.task.split("+")]
        if self.kind not in HEAD_TYPES or self.rule not in RULES or any(
                kind not in HEAD_TYPES[self.kind].tasks for kind, _, _ in parts):
            raise ValueError("unknown head, rule or task")
        streams = len(self.dims) // self.views
        if self.dims != self.dims[:streams] * self.views or (
                self.views > 1 and not HEAD_TYPES[self.kind].averages_views):
            raise ValueError("its streams are not so many views of the same backbones, or it does not average views")
        counts = [int(columns) if columns.isdecimal() else 0 for _, _, columns in parts]
        if len(parts) > 1 and (sum(counts) != len(self.classes) or min(counts) < 1):
            raise ValueError("the columns are not those of its tasks")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class appears twice")
        if self.members * len(self.classes) > MAX_OUTPUTS:
            raise ValueError(f"{self.members} members of {len(self.classes)} classes are too many")


class FoldSizes(Struct, frozen=True):
    """Numbers of samples. extra: training samples without a class."""

    train: Count
    val: Count
    test: Count
    extra: Count


class RunRecord(Struct, frozen=True):
    """run.json: enough to repeat the run, and to know what it was made from. faces: one entry per fold.

    crops: how the samples were cropped, one line of settings each, an empty one if some were not; none if all were not.
    """

    version: Literal[1]
    created: Name
    settings: dict[str, Any]
    classes_name: Name
    classes: Classes
    taxonomy: dict[str, Any]
    streams: Annotated[list[StreamRecord], Meta(min_length=1, max_length=256)]
    labels_sha256: Name
    head: HeadRecord
    temperature: Temperature
    temperatures: Annotated[list[Temperature], Meta(min_length=1, max_length=1000)]
    faces: Annotated[list[FoldSizes], Meta(min_length=1, max_length=1000)]
    crops: Annotated[list[str], Meta(max_length=10_000)]
    notes: Annotated[list[str], Meta(max_length=10_000)]
    seconds: Seconds
    software: dict[str, str] = {}
    thresholds: Annotated[list[Fractions], Meta(max_length=1000)] = []

    def __post_init__(self) -> None:
        if len(self.streams) != len(self.head.dims):
            raise ValueError(f"{len(self.streams)} streams for a head on {len(self.head.dims)}")
        if len(self.temperatures) != len(self.faces) or self.head.members % len(self.faces):
            raise ValueError(f"{len(self.temperatures)} temperatures and {self.head.members} members do not fit "
                             f"{len(self.faces)} folds")
        if self.classes != self.head.classes:
            raise ValueError("the head has other classes")
        if self.thresholds and {len(each) for each in self.thresholds} - {0, len(self.classes)}:
            raise ValueError("the thresholds are not one a label")


class ReliabilityBins(Struct, frozen=True):
    """The bins of a reliability diagram, as `Reliability` has them."""

    faces: Bins
    right: Bins
    confidence: Bins

    def __post_init__(self) -> None:
        if any(right > samples for right, samples in zip(self.right, self.faces, strict=True)):
            raise ValueError("more right predictions than samples in a bin")


class SystemRecord(Struct, frozen=True):
    """The figures of one head, as `Figures.record` gives them; those of a task stand in addition."""

    name: Name
    backbones: Names
    head: Name
    dim: Count
    untrained: bool
    n: Count
    groups: Count
    figures_of: Name
    temperature: Temperature
    per_class: dict[str, dict[Name, Count | Number | None]]
    contributions: dict[Name, Fraction] | None
    seconds: Seconds


#: what tasks with classes have besides
CLASS_FIGURES: list[tuple[str, Any]] = [
    ("uar", Fraction), ("macro_f1_of_classes_with_faces", Fraction), ("confusion", list[list[Count]]),
    ("calibration_error", Fraction), ("calibration_error_before_temperature", Fraction),
    ("reliability", ReliabilityBins), ("reliability_before_temperature", ReliabilityBins)]


class MetricsRecord(Struct, frozen=True):
    """metrics.json. systems: the heads on single streams (or subsets), the fusion of all streams last, a `SystemRecord`
    with the figures of its task each."""

    split: Name
    classes: Classes
    systems: Annotated[list[Any], Meta(max_length=10_000)]
    fusion_against_best_single: dict[str, Any] | None
    confused: ClassVar[int] = 0  #: classes, of the task

    def __post_init__(self) -> None:
        count = self.confused
        if any(tuple(system.per_class) != self.classes or
               [len(row) for row in getattr(system, "confusion", [])] != [count] * count for system in self.systems):
            raise ValueError("the figures are of other classes")


def metrics_record(task: Task) -> Any:
    """The kind of a task's metrics.json."""
    fields: list[tuple[str, Any]] = []
    for metric in task.metrics:
        value: Any = BOUNDS.get(metric.scale.span, Number)
        value = value if task.classes and metric in Classification.metrics else value | None
        fields += [(metric.key, value), (f"{metric.key}_interval", tuple[value, value] | None),
                   (f"seeds_{metric.key}", Annotated[list[value], Meta(max_length=100_000)])]
    fields += [(f"val_{task.score.key}", BOUNDS.get(task.score.scale.span, Number) | None),
               *(CLASS_FIGURES if task.classes else [])]
    system: Any = msgspec.defstruct("TaskSystemRecord", fields, bases=(SystemRecord,), frozen=True, kw_only=True)
    systems: Any = Annotated[list[system], Meta(max_length=10_000)]
    return msgspec.defstruct("TaskMetricsRecord", [("systems", systems)], bases=(MetricsRecord,), frozen=True,
                             kw_only=True, namespace={"confused": task.classes})


def parse_json(content: bytes, kind: type[T], *, source: Path) -> T:
    """Decode JSON of that kind. Raises InputError that names the file and the value that is not as it must be."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise invalid(source, error) from None


def invalid(path: Path, reason: object) -> InputError:
    """The error for a file of a run that is not as this schema has it."""
    return InputError(f"{path}: {first_line(reason, most=300)}; the run cannot be read, train it again")

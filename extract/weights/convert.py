"""From any published weights file to one that is data by its format."""

from dataclasses import asdict, dataclass
from pathlib import Path

from twofold.data.errors import InputError
from twofold.data.host.outputs import Kind, Output
from twofold.extract.weights.class_orders import class_order
from twofold.extract.weights.read import Checkpoint, file_sha256, read_checkpoint, safetensors_metadata
from twofold.extract.weights.recognise import guess


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was in a weights file and where its tensors are now."""

    source: str
    written: str
    format: str
    container: str
    tensors: int
    parameters: int
    entries: dict[str, str]
    dropped: dict[str, int]
    best_acc: float | None
    classes: str
    looks_like: str

    def record(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{self.source}: {self.format}, {self.tensors} tensors, {self.parameters:,} parameters, {self.looks_like}",
            *(f"  entry {name or '(the file itself)'}: {kind}" for name, kind in self.entries.items()),
            *(f"  left out, not run: {name} x {count}" for name, count in self.dropped.items()),
            *([f"  best_acc: {self.best_acc:.2f}"] if self.best_acc is not None else []),
            *([f"  classes: {self.classes}"] if self.classes else []),
            f"wrote {self.written}",
        ]
        return "\n".join(lines)


CONVERTED = Kind("a file of `weights convert`", lambda path: "source_sha256" in safetensors_metadata(path),
                 repeatable=True)


def convert(source: Path, target: Path, *, classes: str = "", overwrite: bool = False) -> Conversion:
    """Write the weights of `source` as safetensors, whole or not at all.

    classes: the order of the checkpoint's classes as `class_order` takes it, kept in the file; overwrite: an
    older conversion. Raises InputError for a source without weights, an unknown order, or a target with another suffix.
    """
    from safetensors.torch import save_file

    if target.suffix != ".safetensors":
        raise InputError(f"{target}: the converted file is safetensors, so give it that suffix")
    output = Output(target, CONVERTED, overwrite, [source])
    output.check()
    checkpoint = read_checkpoint(source)
    metadata = checkpoint.metadata | {"source_sha256": checkpoint.metadata.get("source_sha256") or file_sha256(source)}
    if classes:
        metadata["classes"] = ",".join(class_order(classes))
    tensors = {name: tensor.contiguous().clone() for name, tensor in checkpoint.tensors.items()}  # none may share
    with output.writing() as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return _conversion(checkpoint, target, metadata.get("classes", ""))


def _conversion(checkpoint: Checkpoint, target: Path, classes: str) -> Conversion:
    return Conversion(
        source=str(checkpoint.path), written=str(target), format=checkpoint.format, container=checkpoint.container,
        tensors=len(checkpoint.tensors), parameters=checkpoint.parameters, entries=checkpoint.entries,
        dropped=checkpoint.dropped, best_acc=checkpoint.best_acc, classes=classes,
        looks_like=guess(checkpoint.tensors),
    )

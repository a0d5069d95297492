"""Convert any published weights file to safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind
from twofold.extract.weights.load import describe_architecture
from twofold.extract.weights.read import Checkpoint, file_sha256, read_checkpoint, safetensors_metadata


@dataclass(frozen=True)
class Conversion:
    """What was in a weights file and where its tensors are now."""

    checkpoint: Checkpoint
    written: Path
    classes: str

    def record(self) -> dict[str, Any]:
        return {"source": str(self.checkpoint.path), "written": str(self.written), **self.checkpoint.record(),
                "classes": self.classes, "looks_like": describe_architecture(self.checkpoint.tensors)}

    def text(self) -> str:
        facts = self.record()
        return "\n".join([
            f"{facts['source']}: {facts['format']}, {facts['tensors']} tensors, {facts['parameters']:,} parameters, "
            f"{facts['looks_like']}",
            *(f"  entry {name or '(the file itself)'}: {kind}" for name, kind in facts["entries"].items()),
            *(f"  left out, not run: {name} x {count}" for name, count in facts["dropped"].items()),
            *([f"  taken: {facts['container']}"] if self.checkpoint.others else []),
            *([f"  classes: {self.classes}"] if self.classes else []), f"wrote {self.written}"])


CONVERTED = OutputKind("a file of `weights convert`", lambda path: "source_sha256" in safetensors_metadata(path),
                 repeatable=True)


def convert(source: Path, target: Path, *, classes: Sequence[str] = (), overwrite: bool = False) -> Conversion:
    """Write the weights of `source` as safetensors, whole or not at all.

    classes: of the checkpoint's classifier, in order, kept in the file; overwrite: an older conversion. Raises
    InputError for a source without weights, or a target with another suffix.
    """
    from safetensors.torch import save_file

    if target.suffix != ".safetensors":
        raise InputError(f"{target}: the converted file is safetensors, so give it that suffix")
    output = Output(target, CONVERTED, overwrite, [source])
    output.check()
    checkpoint = read_checkpoint(source)
    metadata = checkpoint.metadata | {"source_sha256": checkpoint.metadata.get("source_sha256") or file_sha256(source)}
    if classes:
        metadata["classes"] = ",".join(classes)
    tensors = {name: tensor.contiguous().clone() for name, tensor in checkpoint.tensors.items()}  # none may share
    with output.writing() as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return Conversion(checkpoint, target, metadata.get("classes", ""))

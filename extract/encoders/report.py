"""The verbs `weights ls`, `show` and `convert`: what each preset needs, whether it is there, and what a file is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twofold.cache.report import table
from twofold.data.faces.detectors import DETECTORS
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind
from twofold.data.utils.terminal import Summary
from twofold.data.utils.weights_files import hub_cached
from twofold.extract.encoders.preprocessing import ENTRY, split_name
from twofold.extract.encoders.presets import PRESETS, Preset, preset, published
from twofold.extract.weights.find import HUB_FILE, find_in_folder

SHOWN = ("architecture", "dim", "tap", "preprocessing", "trained_on", "files", "page", "licence", "hub", "url", "note")


# ---------------------------------------------------------------------------------------------------------- `ls`
def listing(folder: Path) -> Summary:
    """All presets and face detectors, whether their weights are in `folder` or in the cache of the hub, and in one line
    each what to do. Downloads nothing."""
    facts = [_facts(known) | {"found": str(_weights_of(known, folder) or "")} for known in PRESETS]
    facts += [{"backbone": entry.name, "architecture": "face detector, of `crop` and `predict`",
               "trained_on": entry.trained_on, "files": [entry.file, *entry.hub_files], "page": entry.page,
               "licence": entry.licence, "hub": entry.hub, "found": str(entry.local_file(folder) or "")}
              for entry in DETECTORS.values()]
    rows, advice = [("BACKBONE", "DIM", "TRAINED ON", "FILE", "LICENCE", "HERE")], []
    for entry in facts:
        name, files, detector = entry["backbone"], entry["files"], "dim" not in entry
        rows.append((f"{name} (detector)" if detector else name, str(entry.get("dim", "-")), entry["trained_on"],
                     Path(entry["found"] or files[0]).name, entry["licence"],
                     "yes" if entry["found"] else "hub" if entry["hub"] else "no"))
        what = f"get it from {entry['page']} and save it as {folder / files[0]}"
        if entry["hub"] or entry.get("url"):
            what = f"`twofold weights get {name}` downloads it, or {what}"
        if files[1:] and not detector:
            what += f" (or {', '.join(files[1:])}: {entry['note']})"
        if entry["hub"]:
            verbs = "crop and predict download" if detector else "extract downloads"
            what += f"; without it, {verbs} {entry['hub']} from the Hugging Face hub"
        advice.append(f"{name}: {'is here, nothing to do' if entry['found'] else what}")
    return Summary([
        *table(rows), "", f"weights folder: {folder} (TWOFOLD_WEIGHTS names another)", *advice,
        "a pickled file is read safely as it is; `weights convert IN -o OUT.safetensors` makes it plain data"], facts)


def _weights_of(known: Preset, folder: Path) -> Path | None:
    return find_in_folder(published(known.name), folder) or hub_cached(known.hub, HUB_FILE)


def _facts(known: Preset) -> dict[str, Any]:
    shown = {name: vars(known)[name] for name in SHOWN}
    return {"backbone": known.name} | shown | {"preprocessing": known.preprocessing.record()}


# -------------------------------------------------------------------------------------------------------- `show`
def description(name: str, *, folder: Path, weights: Path | None = None) -> Summary:
    """Describe a preset; load its weights strictly where they are there, to say exactly what they are.

    Raises InputError for an unknown preset, and for a file that is not its weights.
    """
    if ":" in name:
        names = ", ".join(known.name for known in PRESETS)
        raise InputError(f"weights show describes presets ({names}), not {name}")
    plain, options = split_name(name)
    entry = preset(plain)
    path, facts, file = weights or _weights_of(entry, folder), _facts(entry), {}
    if path:
        from twofold.extract.encoders.registry import load_encoder
        from twofold.extract.weights.read import read_checkpoint

        checkpoint = read_checkpoint(path, entry=options.get(ENTRY, ""))
        encoder = load_encoder(name, weights=str(path), device="cpu", precision="fp32")
        classes = list(encoder.classifier.classes) if encoder.classifier else \
            [f"{encoder.unnamed_classes} in an order that the file does not say"] if encoder.unnamed_classes else []
        file = {"path": str(path), **checkpoint.record(), "metadata": checkpoint.metadata, "weights": encoder.weights,
                "dim": encoder.dim, "classes": classes}
    lines = [f"{name}: {_text_of(value)}" for name, value in facts.items() if value]
    lines += [f"file {name}: {_text_of(value)}" for name, value in file.items() if value] or ["file: none found"]
    return Summary(lines, facts | {"file": file or None})


def _text_of(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text_of(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# ----------------------------------------------------------------------------------------------------- `convert`
def convert(source: Path, target: Path, *, entry: str = "", classes: Sequence[str] = (), half: bool = False,
            overwrite: bool = False) -> Summary:
    """Write the weights of `source` as safetensors, whole or not at all; what was in it.

    entry: the one of several that the weights are under; classes: of the checkpoint's classifier, in order, kept in the
    file; half: round to float16; overwrite: an older conversion. Raises InputError for a source without weights, or
    with numbers too large for float16, or a target with another suffix.
    """
    from safetensors.torch import save_file

    from twofold.extract.weights.load import describe_architecture, is_quantised
    from twofold.extract.weights.read import file_sha256, read_checkpoint, safetensors_metadata

    if target.suffix != ".safetensors":
        raise InputError(f"{target}: the converted file is safetensors, so give it that suffix")
    kind = OutputKind("a file of `weights convert`", lambda path: "source_sha256" in safetensors_metadata(path),
                      repeatable=True)
    output = Output(target, kind, overwrite, [source])
    output.check()
    checkpoint = read_checkpoint(source, entry=entry)
    if is_quantised(checkpoint.tensors):
        raise InputError(f"{source} {describe_architecture(checkpoint.tensors)}")
    metadata = checkpoint.metadata | {"source_sha256": checkpoint.metadata.get("source_sha256") or file_sha256(source)}
    if classes:
        metadata["classes"] = ",".join(classes)
    tensors = {name: tensor.contiguous().clone() for name, tensor in checkpoint.tensors.items()}  # none may share
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(f"{source}: {name} has values that float16 cannot hold: leave out --half")
    with output.writing() as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask says; safetensors writes files that only their owner can read
        save_file(tensors, temporary, metadata=metadata)
        temporary.chmod(mode)
    facts = {"source": str(source), "written": str(target), **checkpoint.record(),
             "classes": metadata.get("classes", ""), "looks_like": describe_architecture(checkpoint.tensors)}
    return Summary([
        f"{source}: {facts['format']}, {facts['tensors']} tensors, {facts['parameters']:,} parameters, "
        f"{facts['looks_like']}",
        *(f"  entry {name or '(the file itself)'}: {kind}" for name, kind in facts["entries"].items()),
        *(f"  left out, not run: {name} x {count}" for name, count in facts["dropped"].items()),
        *(f"  taken: {facts['container'] or '(the file itself)'} (--entry {other} takes the others)"
          for other in checkpoint.others[:1]),
        *(f"  not read, an average of the weights without their names: {name}" for name in checkpoint.unread),
        *([f"  classes: {facts['classes']}"] if facts["classes"] else []), f"wrote {target}"], facts)

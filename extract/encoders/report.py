"""`weights ls` and `weights show`: what each preset needs, whether it is there, and what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.cache.report import table
from twofold.data.faces.detectors import DETECTORS
from twofold.data.utils.errors import InputError
from twofold.data.utils.weights_files import hub_cached
from twofold.extract.encoders.presets import PRESETS, Preset, preset
from twofold.extract.weights.find import HUB_FILE, find_in_folder


@dataclass(frozen=True)
class Listing:
    """All presets and face detectors, and where their weights are."""

    folder: Path
    files: dict[str, Path | None]  #: preset to its file in the folder or in the hub's cache
    detectors: dict[str, Path | None]  #: the same of the face detectors

    def record(self) -> list[dict[str, Any]]:
        rows = [_facts(backbone) | {"found": str(self.files[backbone.name] or "")} for backbone in PRESETS]
        return rows + [{"backbone": entry.name, "architecture": "face detector, of `crop` and `predict`",
                        "trained_on": entry.trained_on, "files": [entry.file, *entry.hub_files], "page": entry.page,
                        "licence": entry.licence, "hub": entry.hub, "found": str(self.detectors[entry.name] or "")}
                       for entry in DETECTORS.values()]

    def text(self) -> str:
        rows = [("BACKBONE", "DIM", "TRAINED ON", "FILE", "LICENCE", "HERE")]
        for backbone in PRESETS:
            here = self.files[backbone.name]
            file = here.name if here else backbone.files[0]
            rows.append((backbone.name, str(backbone.dim), backbone.trained_on, file, backbone.licence,
                         "yes" if here else "hub" if backbone.hub else "no"))
        for entry in DETECTORS.values():
            here = self.detectors[entry.name]
            rows.append((f"{entry.name} (detector)", "-", entry.trained_on, (here or Path(entry.file)).name,
                         entry.licence, "yes" if here else "hub"))
        folder = f"weights folder: {self.folder} (TWOFOLD_WEIGHTS names another)"
        return "\n".join([*table(rows), "", folder, *self._advice()])

    def _advice(self) -> list[str]:
        lines = []
        for backbone in PRESETS:
            if self.files[backbone.name]:
                continue
            fetch = f"{backbone.name}: get it from {backbone.page} and save it as {self.folder / backbone.files[0]}"
            if backbone.files[1:]:
                fetch += f" (or {', '.join(backbone.files[1:])}: {backbone.note})"
            if backbone.hub:
                fetch += f"; without it, extract downloads {backbone.hub} from the Hugging Face hub"
            lines.append(fetch)
        lines += [f"{entry.name}: get it from {entry.page} and save it as {self.folder / entry.file}; without it, crop "
                  f"and predict download {entry.hub} from the Hugging Face hub"
                  for entry in DETECTORS.values() if not self.detectors[entry.name]]
        if lines:
            lines.append("a pickled file is read safely as it is; `weights convert IN -o OUT.safetensors` makes it "
                         "plain data")
        return lines


def listing(folder: Path) -> Listing:
    """Look for the weights of every preset in `folder` and in the cache of the hub. Downloads nothing."""
    return Listing(folder, {backbone.name: _weights_of(backbone, folder) for backbone in PRESETS},
                   {name: entry.local_file(folder) for name, entry in DETECTORS.items()})


def _weights_of(backbone: Preset, folder: Path) -> Path | None:
    return find_in_folder(backbone.weights, folder) or hub_cached(backbone.hub, HUB_FILE)


def _facts(backbone: Preset) -> dict[str, Any]:
    return {
        "backbone": backbone.name, "architecture": backbone.architecture, "dim": backbone.dim, "tap": backbone.tap,
        "preprocessing": backbone.preprocessing.record(), "trained_on": backbone.trained_on,
        "files": list(backbone.files), "page": backbone.page, "licence": backbone.licence,
        "hub": backbone.hub, "note": backbone.note,
    }


@dataclass(frozen=True)
class Description:
    """Everything about one preset, and about its weights file where there is one."""

    facts: dict[str, Any]
    file: dict[str, Any] | None

    def record(self) -> dict[str, Any]:
        return self.facts | {"file": self.file}

    def text(self) -> str:
        lines = [f"{name}: {_text_of(value)}" for name, value in self.facts.items() if value]
        file = [f"file {name}: {_text_of(value)}" for name, value in (self.file or {}).items() if value]
        return "\n".join([*lines, *(file or ["file: none found"])])


def _text_of(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text_of(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def description(name: str, *, folder: Path, weights: Path | None = None) -> Description:
    """Describe a preset; load its weights strictly where they are there, to say exactly what they are.

    Raises InputError for an unknown preset, and for a file that is not its weights.
    """
    if ":" in name:
        names = ", ".join(backbone.name for backbone in PRESETS)
        raise InputError(f"weights show describes presets ({names}), not {name}")
    backbone = preset(name)
    file = weights or _weights_of(backbone, folder)
    if file is None:
        return Description(_facts(backbone), None)
    from twofold.extract.encoders.registry import load_encoder
    from twofold.extract.weights.read import read_checkpoint

    checkpoint = read_checkpoint(file)
    encoder = load_encoder(name, weights=str(file), device="cpu", precision="fp32")
    classes = list(encoder.classifier.classes) if encoder.classifier else \
        [f"{encoder.unnamed_classes} in an order that the file does not say"] if encoder.unnamed_classes else []
    return Description(_facts(backbone), {
        "path": str(file), **checkpoint.record(), "metadata": checkpoint.metadata, "weights": encoder.weights,
        "dim": encoder.dim, "classes": classes})

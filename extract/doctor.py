"""The verb `doctor`: what works on this machine, what does not, and what to do about it."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from filelock import FileLock
from packaging.requirements import Requirement
from PIL import features

import twofold
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import free_memory, openmp_settings
from twofold.extract.encoders.devices import has_native_bf16
from twofold.extract.encoders.presets import PRESETS
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.weights.find import find_in_folder, how_to_get, weights_folder

NETWORKED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs"}
TRY_LOCK = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(timeout=0)"
DECODERS = {"jpg": "JPEG", "jpg_2000": "JPEG 2000", "webp": "WebP", "libtiff": "TIFF", "zlib": "PNG"}
LEAST_MEMORY = 2e9  #: bytes
BYTES_OF_INDEX = 200  #: of a sample in a feature file beside its features: key, hash, checksum


@dataclass(frozen=True)
class Check:
    """One check. absent: optional, or not needed until it is asked for; remedy: what to do, where it is not ok."""

    topic: str
    name: str
    state: Literal["ok", "absent", "broken"]
    text: str
    remedy: str = ""


def _check(topic: str, name: str, ok: bool, text: str, fault: str, remedy: str = "",
           state: Literal["absent", "broken"] = "broken") -> Check:
    """`text` where it is ok, else `fault`, with its state and remedy."""
    return Check(topic, name, "ok", text) if ok else Check(topic, name, state, fault, remedy)


@dataclass(frozen=True)
class Diagnosis:
    """All checks, by topic, in order."""

    checks: Sequence[Check]

    @property
    def exit_code(self) -> int:
        """1 if something is broken; an absent optional part is no fault."""
        return int(any(check.state == "broken" for check in self.checks))

    def record(self) -> dict[str, Any]:
        return {"broken": self.exit_code == 1, "checks": [asdict(check) for check in self.checks]}

    def text(self) -> str:
        lines: list[str] = []
        width = max(len(check.name) for check in self.checks)
        for topic in dict.fromkeys(check.topic for check in self.checks):
            lines += ["", topic] if lines else [topic]
            for check in self.checks:
                if check.topic == topic:
                    mark = {"ok": " ", "absent": "-", "broken": "!"}[check.state]
                    lines.append(f" {mark} {check.name:{width}}  {check.text}")
                    lines += [f"   {'':{width}}  -> {check.remedy}"] if check.remedy else []
        broken = [check.name for check in self.checks if check.state == "broken"]
        return "\n".join([*lines, "", f"to mend (!): {', '.join(broken)}" if broken else
                          "nothing is broken; what is absent (-) is only needed if you ask for it"])


def diagnose(*, store: Path, manifest: Path | None, backbones: Sequence[str]) -> Diagnosis:
    """Check packages, machine, decoders, weights, hub and file system; with a manifest, what extracting it would take.

    Raises InputError for a manifest that cannot be read, or an unknown backbone.
    """
    return Diagnosis([*_packages(), *_machine(), *_decoders(), *_weights(), _hub(), *_file_system(store),
                      *(_work(manifest, backbones, store) if manifest else [])])


def _packages() -> list[Check]:
    topic = "Python and packages"
    checks = [Check(topic, "python", "ok", platform.python_version())]
    for requirement, extra in declared_requirements():
        install = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(topic, requirement.name, "absent" if extra else "broken",
                                f"not installed ({extra})" if extra else "not installed", install))
        else:
            checks.append(_check(topic, requirement.name, requirement.specifier.contains(version, prereleases=True),
                                 version, f"{version} is older than {requirement.specifier}", install))
    return checks


def declared_requirements() -> Iterator[tuple[Requirement, str]]:
    """Each requirement with the extra that asks for it, or "": of the clone, else of the installed package."""
    root = Path(twofold.__file__).parent
    if not (root / "pyproject.toml").is_file():
        for line in metadata.requires("twofold") or []:
            marker = str(Requirement(line).marker or "")
            yield Requirement(line), marker.partition("extra == ")[2].strip("\"'")
        return
    for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line), ""
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra, lines in extras.items():
        yield from ((Requirement(line), extra) for line in lines)


def _machine() -> list[Check]:
    topic = "Machine"
    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [f"cuda:{number} {gpu.name}, {gpu.total_memory / 1e9:.0f} GB" for number, gpu in enumerate(properties)]
    gpus += ["mps"] if torch.backends.mps.is_available() else []
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    native, free = has_native_bf16(torch.device("cpu")), free_memory()
    memory = "this system does not say" if free is None else f"{free / 1e9:.1f} GB free"
    return [
        *([Check(topic, "GPU", "ok", gpu) for gpu in gpus] or [
            Check(topic, "GPU", "absent", f"none (this torch is built {built}): the CPU is used")]),
        _check(topic, "bf16 on the CPU", native, "native: --precision auto takes it",
               "not native: --precision auto takes fp32", state="absent"),
        Check(topic, "threads", "ok", f"{torch.get_num_threads()} on {os.cpu_count()} cores; {openmp_settings()}"),
        _check(topic, "memory", free is None or free > LEAST_MEMORY, memory, memory,
               "training and extraction need 2 GB: close other programs")]


def _decoders() -> list[Check]:
    topic, missing = "Images and videos", [name for feature, name in DECODERS.items() if not features.check(feature)]
    checks = [_check(topic, "images", not missing, ", ".join(DECODERS.values()), f"without {', '.join(missing)}",
                     "pip install --force-reinstall pillow")]
    for name, module, package in (("videos", "av", "av>=13"),
                                  ("face detection", "cv2", "opencv-python-headless>=4.10"),
                                  ("HEIC", "pillow_heif", "pillow-heif>=0.16")):
        try:
            checks.append(Check(topic, name, "ok", f"{module} {import_module(module).__version__}"))
        except ImportError as error:
            state = "absent" if isinstance(error, ModuleNotFoundError) else "broken"
            checks.append(Check(topic, name, state, f"{module}: {error}", f"pip install '{package}'"))
    return checks


def _weights() -> list[Check]:
    """Each preset's file, loaded strictly where it is there."""
    folder, checks = weights_folder(), []
    for preset in PRESETS:
        name, state, remedy = preset.name, "ok", ""
        try:
            path = find_in_folder(preset.weights, folder)
            if path is None:
                state, text, remedy = "absent", "no file", how_to_get(preset.weights, folder)
            else:
                encoder = load_encoder(name, weights=str(path), device="cpu", precision="fp32")
                text = f"{path.name} loads strictly, {encoder.dim}-d, {encoder.weights[:23]}"
        except InputError as error:
            state, text, remedy = "broken", str(error), how_to_get(preset.weights, folder)
        checks.append(Check(f"Weights in {folder}", name, state, text, remedy))
    return checks


def _hub() -> Check:
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return Check("Hub", str(host.hostname), "absent", "HF_HUB_OFFLINE is set: only cached files are used")
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
    except OSError as error:
        return Check("Hub", str(host.hostname), "absent", f"offline ({error})",
                     "fetch weights on another machine and put them into the weights folder")
    return Check("Hub", str(host.hostname), "ok", "reachable")


def _file_system(store: Path) -> list[Check]:
    """Whether locks exclude another process where the store is or will be."""
    topic, folder = f"Store {store}", next(place for place in (store, *store.absolute().parents) if place.is_dir())
    kind = file_system(folder)
    remote = kind in NETWORKED
    checks = [Check(topic, "file system", "ok",
                    f"{kind or 'unknown'}, {'shared over a network' if remote else 'local'}")]
    if not os.access(folder, os.W_OK):
        return [*checks, Check(topic, "writing", "absent", f"{folder} is read-only: enough to read a store")]
    with tempfile.TemporaryDirectory(prefix=".tmp-doctor-", dir=folder) as name, FileLock(Path(name, "lock")):
        second = subprocess.run([sys.executable, "-c", TRY_LOCK, str(Path(name, "lock"))], capture_output=True)
    others = "; whether they exclude other machines depends on the server" if remote else ""
    return [*checks, _check(topic, "locks", second.returncode != 0, f"exclude a second process on this machine{others}",
                            "two processes had one lock at once", "let one process at a time write to a store here, or "
                            "mount with locks (NFS 4, without nolock)")]


def file_system(folder: Path) -> str:
    """The kind of file system below a folder (ext4, nfs4, ...); empty on systems that do not say."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    place = str(folder.resolve())
    here = [(len(point), kind) for point, kind in mounts if place == point or place.startswith(point.rstrip("/") + "/")]
    return max(here, default=(0, ""))[1]


def _work(manifest: Path, backbones: Sequence[str], store: Path) -> list[Check]:
    """Bytes and hours of forward passes to expect of each backbone, measured with untrained weights, and disk space."""
    samples, checks, needed = len(read_manifest(manifest)), [], 0
    for name in backbones:
        encoder = load_encoder(name, weights=None if name.startswith("onnx:") else "random:0")
        side = encoder.preprocessing.size
        batch = torch.zeros((encoder.batch_size, side, side, 3), dtype=torch.uint8)
        encoder.encode(batch)
        began = time.perf_counter()
        encoder.encode(batch)
        rate = len(batch) / (time.perf_counter() - began)
        size = samples * (2 * encoder.dim + BYTES_OF_INDEX)
        needed += size
        text = (f"{samples:,} samples: {size / 1e9:.2f} GB, about {samples / rate / 3600:.2g} h of forward passes "
                f"({rate:.0f} samples/s on {encoder.device})")
        checks.append(Check("Work", name, "ok", text))
    folder = next(place for place in (store, *store.absolute().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    text = f"{needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free"
    return [*checks, _check("Work", "disk", free > needed, text, text, "make space or use another disk")]

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
from importlib import import_module, metadata
from pathlib import Path
from urllib.parse import urlsplit

import torch
from packaging.requirements import Requirement
from PIL import features

import twofold
from twofold.data.manifest import read_manifest
from twofold.data.utils.atomic import file_lock
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import free_memory, openmp_settings
from twofold.data.utils.terminal import Summary
from twofold.extract.encoders.devices import has_native_bf16
from twofold.extract.encoders.presets import PRESETS, published
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.weights.find import find_in_folder, how_to_get, weights_folder

NETWORKED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs"}
TRY_LOCK = "import sys, fcntl; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
DECODERS = {"jpg": "JPEG", "jpg_2000": "JPEG 2000", "webp": "WebP", "libtiff": "TIFF", "zlib": "PNG"}
OPTIONAL_DECODERS = (("videos", "av", "av>=13"), ("face detection", "cv2", "opencv-python-headless>=4.10"),
                     ("HEIC", "pillow_heif", "pillow-heif>=0.16"))
LEAST_MEMORY = 2e9  #: bytes
BYTES_OF_INDEX = 200  #: of a sample in a feature file beside its features: key, hash, checksum
MARKS = {"ok": " ", "absent": "-", "broken": "!"}


Check = dict[str, str]


def diagnose(*, store: Path, manifest: Path | None, backbones: Sequence[str]) -> Summary:
    """Check packages, machine, decoders, weights, hub and file system; with a manifest, what extracting it would take.

    Raises InputError for a manifest that cannot be read, or an unknown backbone.
    """
    checks = [*_packages(), *_machine(), *_decoders(), *_weights(), _hub(), *_file_system(store),
              *(_work(manifest, backbones, store) if manifest else [])]
    lines, topic, width = [], "", max(len(check["name"]) for check in checks)
    for check in checks:
        if check["topic"] != topic:
            topic = check["topic"]
            lines += ["", topic] if lines else [topic]
        lines.append(f" {MARKS[check['state']]} {check['name']:{width}}  {check['text']}")
        lines += [f"   {'':{width}}  -> {check['remedy']}"] if check["remedy"] else []
    broken = [check["name"] for check in checks if check["state"] == "broken"]
    return Summary([*lines, "", f"to mend (!): {', '.join(broken)}" if broken else
                    "nothing is broken; what is absent (-) is only needed if you ask for it"],
                   {"broken": bool(broken), "checks": checks}, int(bool(broken)))


def _check(topic: str, name: str, text: str, fault: str = "", remedy: str = "", *, optional: bool = False) -> Check:
    """Return a check that is ok, or has a fault and what to do: broken, or absent if it is optional."""
    return {"topic": topic, "name": name, "state": "ok" if not fault else "absent" if optional else "broken",
            "text": fault or text, "remedy": remedy if fault else ""}


def _packages() -> Iterator[Check]:
    topic = "Python and packages"
    yield _check(topic, "python", platform.python_version())
    for requirement, extra in declared_requirements():
        version, fault, install = "", "", f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
            if not requirement.specifier.contains(version, prereleases=True):
                fault, extra = f"{version} is older than {requirement.specifier}", ""
        except metadata.PackageNotFoundError:
            fault = f"not installed ({extra})" if extra else "not installed"
        yield _check(topic, requirement.name, version, fault, install, optional=bool(extra))


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


def _machine() -> Iterator[Check]:
    topic, gpus, free = "Machine", torch.cuda.device_count(), free_memory()
    for number in range(gpus):
        card = torch.cuda.get_device_properties(number)
        yield _check(topic, "GPU", f"cuda:{number} {card.name}, {card.total_memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        yield _check(topic, "GPU", "mps")
    elif not gpus:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield _check(topic, "GPU", "", f"none (this torch is built {built}): the CPU is used", optional=True)
    yield _check(topic, "bf16 on the CPU", "native: --precision auto takes it", optional=True, fault="" if
                 has_native_bf16(torch.device("cpu")) else "not native: --precision auto takes fp32")
    yield _check(topic, "threads", f"{torch.get_num_threads()} on {os.cpu_count()} cores; {openmp_settings()}")
    memory = "this system does not say" if free is None else f"{free / 1e9:.1f} GB free"
    yield _check(topic, "memory", memory, "" if free is None or free > LEAST_MEMORY else memory,
                 "training and extraction need 2 GB: close other programs")


def _decoders() -> Iterator[Check]:
    topic, missing = "Images and videos", [name for feature, name in DECODERS.items() if not features.check(feature)]
    yield _check(topic, "images", ", ".join(DECODERS.values()), f"without {', '.join(missing)}" if missing else "",
                 "pip install --force-reinstall pillow")
    for name, module, package in OPTIONAL_DECODERS:
        try:
            yield _check(topic, name, f"{module} {import_module(module).__version__}")
        except ImportError as error:
            yield _check(topic, name, "", f"{module}: {error}", f"pip install '{package}'",
                         optional=isinstance(error, ModuleNotFoundError))


def _weights() -> Iterator[Check]:
    """Each preset's file, loaded strictly where it is there."""
    folder = weights_folder()
    for preset in PRESETS:
        text, fault, wanted = "", "no file", published(preset.name)
        try:
            if path := find_in_folder(wanted, folder):
                encoder = load_encoder(preset.name, weights=str(path), device="cpu", precision="fp32")
                text, fault = f"{path.name} loads strictly, {encoder.dim}-d, {encoder.weights[:23]}", ""
        except InputError as error:
            fault = str(error)
        yield _check(f"Weights in {folder}", preset.name, text, fault, how_to_get(wanted, folder),
                     optional=fault == "no file")


def _hub() -> Check:
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT)
    fault, remedy = "HF_HUB_OFFLINE is set: only cached files are used", ""
    if not constants.HF_HUB_OFFLINE:
        fault, remedy = "", "fetch weights on another machine and put them into the weights folder"
        try:
            socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
        except OSError as error:
            fault = f"offline ({error})"
    return _check("Hub", str(host.hostname), "reachable", fault, remedy, optional=True)


def _file_system(store: Path) -> Iterator[Check]:
    """Whether locks exclude another process where the store is or will be."""
    topic, folder = f"Store {store}", _existing(store)
    kind = file_system(folder)
    remote = kind in NETWORKED
    yield _check(topic, "file system", f"{kind or 'unknown'}, {'shared over a network' if remote else 'local'}")
    if not os.access(folder, os.W_OK):
        yield _check(topic, "writing", "", f"{folder} is read-only: enough to read a store", optional=True)
        return
    with tempfile.TemporaryDirectory(prefix=".tmp-doctor-", dir=folder) as name, file_lock(Path(name, "lock")):
        second = subprocess.run([sys.executable, "-c", TRY_LOCK, str(Path(name, "lock"))], capture_output=True)
    others = "; whether they exclude other machines depends on the server" if remote else ""
    yield _check(topic, "locks", f"exclude a second process on this machine{others}",
                 "" if second.returncode else "two processes had one lock at once",
                 "let one process at a time write to a store here, or mount with locks (NFS 4, without nolock)")


def _existing(store: Path) -> Path:
    """The folder of a store, or the one in which it will be."""
    return next(place for place in (store, *store.absolute().parents) if place.is_dir())


def file_system(folder: Path) -> str:
    """The kind of file system below a folder (ext4, nfs4, ...); empty on systems that do not say."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    place = str(folder.resolve())
    here = [(len(point), kind) for point, kind in mounts if place == point or place.startswith(point.rstrip("/") + "/")]
    return max(here, default=(0, ""))[1]


def _work(manifest: Path, backbones: Sequence[str], store: Path) -> Iterator[Check]:
    """Bytes and hours of forward passes to expect of each backbone, measured with untrained weights, and disk space."""
    samples, needed = len(read_manifest(manifest)), 0
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
        yield _check("Work", name, f"{samples:,} samples: {size / 1e9:.2f} GB, about {samples / rate / 3600:.2g} h of "
                                   f"forward passes ({rate:.0f} samples/s on {encoder.device})")
    free = shutil.disk_usage(_existing(store)).free
    text = f"{needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free"
    yield _check("Work", "disk", text, "" if free > needed else text, "make space or use another disk")

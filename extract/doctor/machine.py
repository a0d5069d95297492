"""Processors, cards, threads, decoders, memory and disk."""

import os
import shutil
from importlib import import_module
from pathlib import Path

import torch
from PIL import features

from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import free_memory
from twofold.extract.devices import has_native_bf16
from twofold.extract.doctor.diagnosis import Check

TOPIC = "Machine"
DECODERS = {"jpg": "JPEG", "jpg_2000": "JPEG 2000", "webp": "WebP", "libtiff": "TIFF", "zlib": "PNG"}


def check_machine() -> list[Check]:
    """What networks run on here, and in which arithmetic."""
    return [*_cards(), _arithmetic(), _threads(), _memory()]


def _cards() -> list[Check]:
    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    cards = [f"cuda:{number} {card.name}, {card.total_memory / 1e9:.0f} GB" for number, card in enumerate(properties)]
    if torch.backends.mps.is_available():
        cards.append("mps")
    if cards:
        return [Check(TOPIC, "card", "ok", card) for card in cards]
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return [Check(TOPIC, "card", "absent", f"none (this torch is built {built}): networks run on the CPU")]


def _arithmetic() -> Check:
    native = has_native_bf16(torch.device("cpu"))
    return Check(TOPIC, "bf16 on the CPU", "ok" if native else "absent",
                 "native: --precision auto takes it" if native else "not native: --precision auto takes fp32")


def _threads() -> Check:
    policy = ", ".join(f"{name}={os.environ[name]}" for name in
                       ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ)
    return Check(TOPIC, "threads", "ok",
                 f"{torch.get_num_threads()} on {os.cpu_count()} cores; {policy or 'no OpenMP policy'}")


def _memory() -> Check:
    free = free_memory()
    return Check(TOPIC, "memory", "ok" if free is None or free > 2e9 else "broken",
                 "this system does not say" if free is None else f"{free / 1e9:.1f} GB free",
                 "" if free is None or free > 2e9 else "training and extraction want 2 GB: close other programs")


def check_decoders() -> list[Check]:
    """What pictures and videos can be read."""
    names = [name for feature, name in DECODERS.items() if features.check(feature)]
    missing = [name for name in DECODERS.values() if name not in names]
    pictures = Check("Pictures and videos", "pictures", "broken" if missing else "ok", ", ".join(names),
                     f"this Pillow lacks {', '.join(missing)}: pip install --force-reinstall pillow" if missing else "")
    return [pictures, _module("videos", "av", "av>=13"),
            _module("face detection", "cv2", "opencv-python-headless>=4.10")]


def _module(name: str, module: str, package: str) -> Check:
    try:
        version = import_module(module).__version__
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        return Check("Pictures and videos", name, "absent" if missing else "broken", f"{module}: {error}",
                     f"pip install '{package}'")
    return Check("Pictures and videos", name, "ok", f"{module} {version}")


def check_disk(folder: Path, needed: int) -> Check:
    """Room for `needed` bytes where `folder` is or will be."""
    place = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    if place is None:
        raise InputError(f"{folder}: no such place")
    free = shutil.disk_usage(place).free
    enough = free > needed
    text = f"{needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free"
    return Check("Work", "disk", "ok" if enough else "broken", text, "" if enough else "make space or use another disk")

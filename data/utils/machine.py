"""What both stages ask of the machine, without torch: how its threads wait, which device a name means, its bf16."""

import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from twofold.data.utils.errors import InputError

SPIN_COUNT = "1000"  #: rounds, some microseconds: nearly all of the speed of endless spinning on a quiet machine
USUAL_MEMORY = 4e9  #: bytes that are taken to be free on systems that do not say
CHOICES = "choose auto, cpu, cuda, cuda:N or mps"


def limit_openmp_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads that wait for work give up their core soon, unless the user has said how they wait.

    GNU's OpenMP, which torch uses on Linux, spins for milliseconds. As soon as another process keeps a core busy, the
    thread that all others wait for is the one without a core, and the others spin in its place: training took 15 to 25
    times as long, extraction 7. The library reads this when it is loaded, so it has to stand here before torch is
    imported; processes that are started inherit it.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def openmp_settings(environment: MutableMapping[str, str] = os.environ) -> str:
    """How OpenMP threads wait here, in words, as `bench` prints it."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    settings = [f"{name}={environment[name]}" for name in names if name in environment]
    return " ".join(settings) or "as the OpenMP library likes"


def resolve_device(text: str, *, cuda_devices: int, mps: bool, auto: Sequence[str] = ("cuda", "mps", "cpu")) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there, in torch's spelling.

    auto: the kinds in the order in which they are preferred. Raises InputError for another text, and for a device that
    this machine, which has so many CUDA devices and Apple's or not, lacks.
    """
    present = {"cuda": cuda_devices > 0, "mps": mps, "cpu": True}
    if text == "auto":
        return next(kind for kind in auto if present[kind])
    kind, colon, index = text.partition(":")
    numbered = index.isascii() and index.isdecimal()
    if kind not in present or (colon and not numbered) or (numbered and kind != "cuda" and int(index) > 0):
        raise InputError(f"unknown device {text!r}: {CHOICES}")
    if kind == "cuda" and int(index or 0) >= cuda_devices:
        raise InputError(f"device {text} is not on this machine, which has {cuda_devices} CUDA devices: {CHOICES}")
    if not present[kind]:
        raise InputError(f"device {text} is not on this machine: {CHOICES}")
    return text


def is_cpu_only() -> bool:
    """True if this machine can have no other device than its CPU, as Linux shows; False where torch has to be asked."""
    drivers = ("nvidia*", "nvhost*", "dxg", "kfd")  #: of NVIDIA's cards and boards, WSL, AMD's cards
    return sys.platform == "linux" and not any(file for name in drivers for file in Path("/dev").glob(name))


def free_memory() -> float | None:
    """Bytes of memory that are free or can be freed; None on systems that do not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def cpu_has_bf16() -> bool:
    """True if the CPU multiplies bfloat16 in hardware, as Linux says; False on other systems, where fp32 is safe."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()[2:]}
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})

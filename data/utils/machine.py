"""What both stages ask of the machine, without torch: how its threads wait, which device a name means, its bf16."""

import gc
import os
import re
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from twofold.data.utils.errors import InputError

SPIN_COUNT = "1000"  #: rounds, some microseconds: nearly all of the speed of endless spinning on a quiet machine
USUAL_MEMORY = 4e9  #: bytes that are taken to be free on systems that do not say
CHOICES = "choose auto, cpu, cuda, cuda:N or mps"


def limit_openmp_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads that wait for work give up their core soon, unless the user has said how they wait.

    GNU's OpenMP, which torch uses on Linux, spins for milliseconds: with one core busy, training took 15 to 25 times as
    long, extraction 7. It reads this when it is loaded, so call it before torch is imported; processes inherit it.
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
    present = {"cpu", *(["mps"] if mps else []), *(["cuda"] if cuda_devices else []),
               *(f"cuda:{index}" for index in range(cuda_devices))}
    if text == "auto":
        return next(kind for kind in auto if kind in present)
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", text):
        raise InputError(f"unknown device {text!r}: {CHOICES}")
    if text not in present:
        raise InputError(f"device {text} is not on this machine, which has {cuda_devices} CUDA devices: {CHOICES}")
    return text


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by its affinity and the CPU quota of its control groups; at least 1."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for group in _control_groups("cpu", root):
        quota = _numbers(group / "cpu.max") or [*_numbers(group / "cpu.cfs_quota_us"),
                                                *_numbers(group / "cpu.cfs_period_us")]
        if len(quota) == 2 and quota[0] > 0:
            cores = min(cores, quota[0] / quota[1])
    return max(1, round(cores))


@contextmanager
def without_collector() -> Iterator[None]:
    """Without the garbage collector, which makes a fifth of the time of `import torch` and finds nothing in it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what was imported stays
        gc.enable()


def free_memory(root: Path = Path("/")) -> float | None:
    """Bytes that are free or can be freed, on the machine and in this process's control groups; None if unknown."""
    try:
        with open(root / "proc/meminfo", encoding="ascii") as lines:
            free = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    for group in _control_groups("memory", root):
        for limit, used, cached in (("memory.max", "memory.current", "inactive_file"),
                                    ("memory.high", "memory.current", "inactive_file"),
                                    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
            numbers = [*_numbers(group / limit), *_numbers(group / used)]
            if len(numbers) == 2:
                free = min(free, numbers[0] - numbers[1] + sum(_numbers(group / "memory.stat", cached)))
    return max(free, 0.0)


def _control_groups(controller: str, root: Path) -> list[Path]:
    """The folders of this process's control groups, version 2 or 1, each with those above it; none but on Linux."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers == "" or controller in controllers.split(","):
            for name in {controllers, controller} if controllers else {""}:  # `cpu` is often a link to `cpu,cpuacct`
                top = root / "sys/fs/cgroup" / name
                group = top / path.lstrip("/")
                folders += [folder for folder in (group, *group.parents) if folder == top or top in folder.parents]
    return folders


def _numbers(path: Path, name: str = "") -> list[float]:
    """The numbers in a file of a control group, or behind `name`; none where it is missing or says `max`."""
    try:
        lines = [line for line in path.read_text(encoding="ascii").splitlines() if line.startswith(name)]
        return [float(word) for word in lines[0].removeprefix(name).split()] if lines else []
    except (OSError, ValueError):
        return []


def cpu_has_bf16() -> bool:
    """True if the CPU multiplies bfloat16 in hardware, as Linux says; False on other systems, where fp32 is safe."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()[2:]}
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})

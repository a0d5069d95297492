"""How large a worker of a Ray cluster is, and how many there may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class WorkerSize:
    """What one worker takes of a node: a GPU and its share of the cores, or all cores; count: of workers at most."""

    device: str
    cpus: int
    gpus: int
    count: int


def size_of_workers(nodes: Sequence[Mapping[str, Any]], device: str, *, cpus: int = 0, most: int = 0) -> WorkerSize:
    """nodes: as Ray lists them; device: auto, cpu or cuda; cpus: for each worker, 0 for a fair share of the smallest
    node; most: workers, 0 for as many as fit. Raises InputError for another device."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device} cannot be with --ray, which gives each worker its own: auto, cpu or cuda")
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    if device == "auto":
        device = "cuda" if any(room.get("GPU", 0) >= 1 for room in rooms) else "cpu"
    gpus = int(device == "cuda")
    rooms = [room for room in rooms if room.get("CPU", 0) >= 1 and room.get("GPU", 0) >= gpus]
    cpus = cpus or max(1, min((int(room["CPU"] / (room["GPU"] if gpus else 1)) for room in rooms), default=1))
    room_for = sum(int(min(room["CPU"] // cpus, room["GPU"] // gpus if gpus else room["CPU"])) for room in rooms)
    return WorkerSize(device=device, cpus=cpus, gpus=gpus, count=most or max(1, room_for))

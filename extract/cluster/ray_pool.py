"""The workers of a run on a Ray cluster: how large and how many, started, and let go again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.data.utils.errors import InputError


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


class Pool:
    """Up to `size.count` actors, which `start` makes. A context: at its end all are let go."""

    def __init__(self, ray: Any, start: Callable[[], Any], size: WorkerSize):
        self.ray, self.size = ray, size
        self._start = start
        self._actors: list[Any] = []
        self._idle: list[Any] = []  #: that were needed before there was work

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._actors]:
            self.drop(actor)

    def actor(self) -> Any:
        """A new one; it waits for room, and so makes an autoscaler bring a node where there is none."""
        if self._idle:
            return self._idle.pop()
        self._actors.append(self._start())
        return self._actors[-1]

    def drop(self, actor: Any) -> None:
        """Let go of an actor, whatever it does, so that its room is free for others."""
        self._actors.remove(actor)
        self.ray.kill(actor)

    def precision(self, text: str) -> str:
        """`auto` as it is for an actor of the cluster, which is started for that and kept."""
        actor = self.actor()
        try:
            precision = self.ray.get(actor.precision.remote(text))
        except self.ray.exceptions.RayTaskError as error:
            raise as_ours(error) from None
        except self.ray.exceptions.RayError as error:
            raise InputError(f"--ray: no worker starts ({reason_of(error)})") from None
        self._idle.append(actor)
        return precision


def as_ours(error: Any) -> Exception:
    """What an actor raised, if it is bad input or the file system; else Ray's error, with the actor's traceback."""
    return error.cause if isinstance(error.cause, ValueError | OSError) else error


def reason_of(error: Exception) -> str:
    """Why Ray lost an actor: the first line that is neither of its particulars nor says only that it did."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    telling = [line for line in lines if not line.startswith("The actor died unexpectedly")]
    return ([*telling, *lines, type(error).__name__][0])[:300]

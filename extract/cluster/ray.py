"""Extraction on a Ray cluster: the driver plans, hands tasks to actors and merges; actors do all of the rest.

Each actor runs the loop that one machine runs, decoding included, on a GPU or the cores of a node, so only keys and
counts pass through Ray. Ray restarts lost actors and retries their tasks; what such a task has published is not
computed again. (Ray Data would carry decoded pixels through its object store; its pools stay at one GPU actor on an
autoscaling cluster, ray issue 59144, and may hang when an actor dies, 62746.)
"""

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import cached_rows, shard_paths
from twofold.cache.store import Store
from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.devices import parse_device, resolve_precision
from twofold.extract.engine.loop import compute_task
from twofold.extract.engine.progress import RunStats, Stop, check_failure_limit, progress_bar
from twofold.extract.engine.task import ComputeTask, Encoders, recipe_of
from twofold.extract.weights.find import weights_folder

PIPELINE = Path(__file__).parents[2] / "pipeline.py"  #: the command line, installed or in a plain clone
PASSED_ON = ("TWOFOLD_", "OMP_", "GOMP_", "HF_")  #: prefixes of the variables that workers get from the driver
TASKS_PER_WORKER, MIN_TASK_SAMPLES = 8, 128  #: small tasks end at about the same time; the last batch of each is padded
RESTARTS = 6  #: of one actor, each after it was lost
POLL_SECONDS, PATIENCE_SECONDS, STOP_SECONDS, CONNECT_SECONDS = 1.0, 60.0, 120.0, 10.0
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  #: RFC 9113, section 3.4
PROBES = 16  #: images that every node must be able to read
SAME_PATHS = "all nodes need the store, the images and the weights at the paths that they have here"
log = logging.getLogger(__name__)


@contextlib.contextmanager
def connected(address: str, *, device: str, cpus: int = 0, most: int = 0) -> "Iterator[RayWorkers]":
    """Connect to a cluster; arguments and errors otherwise as of `size_of_workers`. Raises InputError for no cluster.

    address: `local` for this machine, `auto` or HOST:PORT of a cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what will be its default, without the warning
    os.environ.setdefault("RAY_worker_niceness", "0")  # of workers on this machine; Ray's 15 starves on a busy one
    if importlib.util.find_spec("ray") is None:
        raise InputError('--ray needs Ray: pip install "twofold[ray]", or pip install ray')
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own notes belong: stdout is the report's
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            loaded = sys.modules.get("ray")
            if not (loaded and loaded.is_initialized()) and host and port.isdecimal():
                # Is it gRPC that answers? Before Ray is imported, which takes seconds and would find out after minutes.
                with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
                    connection.sendall(HTTP2_GREETING)
                    if connection.recv(9)[3:4] != b"\x04":  # a server's first frame has its settings
                        raise OSError("another service answers there")
            import ray

            ours = not ray.is_initialized()  # else of a notebook, or of a job that was submitted: it stays
            if ours:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR,
                         include_dashboard=False if address == "local" else None)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {address}: no such cluster ({first_line(error)}): `local` is this machine, "
                             "`ray start --head` prints the address of a new one") from None
        try:
            yield RayWorkers(ray, *size_of_workers(ray.nodes(), device, cpus=cpus, most=most))
        finally:
            if ours:
                ray.shutdown()


def size_of_workers(nodes: Sequence[Mapping[str, Any]], device: str, *, cpus: int = 0, most: int = 0
                    ) -> tuple[str, int, int, int]:
    """Return device, CPUs and GPUs of a worker (a GPU and its part of the cores, or all cores of a node); how many.

    nodes: as Ray lists them; device: auto, cpu or cuda; cpus: for each worker, 0 for an equal part of the smallest
    node; most: workers, 0 for as many as fit. Raises InputError for another device or number.
    """
    if most < 0:
        raise InputError(f"--ray-workers {most}: there is at least one worker, or 0 for as many as fit")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device} cannot be with --ray, which gives each worker its own: auto, cpu or cuda")
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if device == "auto":
        device = "cuda" if any(node.get("GPU", 0) >= 1 for node in resources) else "cpu"
    gpus = int(device == "cuda")
    resources = [node for node in resources if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= gpus]
    cpus = cpus or max(1, min((int(node["CPU"] / (node["GPU"] if gpus else 1)) for node in resources), default=1))
    fitting = sum(int(min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else node["CPU"])) for node in resources)
    return device, cpus, gpus, most or max(1, fitting)


class RayWorkers:
    """The workers of a connected cluster; sizes as of `size_of_workers`."""

    def __init__(self, ray: Any, device: str, cpus: int, gpus: int, count: int):
        self.ray, self.device, self.cpus, self.gpus, self.count = ray, device, cpus, gpus, count

    def resolve_auto(self) -> str:
        """Return the precision that `auto` means on a worker."""
        actor = self._start()
        try:
            return self._result(actor.call.remote("resolve_auto"), "no worker starts")
        finally:
            self.ray.kill(actor)

    def compute(self, task: ComputeTask) -> RunStats:
        """Compute a task with as many decoding threads as a worker has CPUs; raises as `compute_task`.

        On Ctrl-C or SIGTERM actors finish and publish the batches in hand, and `RunStats.stopped_by` is set.
        """
        ray, began, stats, task = self.ray, time.perf_counter(), RunStats(), replace(task, workers=self.cpus)
        published = {path.name for file in task.files for path in shard_paths(Store(task.store, new=True), file.recipe)}
        probes = [key for key in task.keys[::max(1, len(task.keys) // PROBES)][:PROBES] if not _unreadable(task, key)]
        nothing = replace(task, keys=[], files=[replace(file, rows=file.rows[:0]) for file in task.files])
        tasks, patient_until = split(task, workers=self.count), time.monotonic() + PATIENCE_SECONDS
        # An actor waits for room, and so makes an autoscaler bring a node; the first that is ready gets a task first.
        actors = [self._start() for _ in range(min(self.count, len(tasks)))]
        starting = {actor.call.remote("prepare", nothing, probes): actor for actor in actors}
        busy: dict[Any, tuple[Any, ComputeTask]] = {}
        with Stop() as stop, progress_bar(len(task.samples), shown=True) as bar:
            try:
                while (starting or busy) and not stop.signal:
                    done, _ = ray.wait([*starting, *busy], timeout=POLL_SECONDS)
                    for reference in done:
                        if reference in starting:
                            actor, host = starting.pop(reference), self._result(reference, "workers do not start")
                            log.info("a worker on %s is ready", host)
                        else:
                            actor, part = busy.pop(reference)
                            computed, note = self._result(
                                reference, f"a worker was lost {RESTARTS + 1} times, the last time at {len(part.keys)} "
                                           f"samples, the first of them {part.keys[0]!r}")
                            stats.add(computed)
                            check_failure_limit(stats.failed_samples, task.max_failures)
                            if note:
                                log.warning("%s", note)
                        if tasks:
                            part = tasks.pop(0)
                            busy[actor.call.remote("compute", part, published)] = actor, part
                        else:
                            ray.kill(actor)  # makes room for those that have not started, or start again
                    if not tasks:
                        for reference in [*starting]:
                            ray.kill(starting.pop(reference))
                    elif not busy and time.monotonic() > patient_until:
                        patient_until += PATIENCE_SECONDS
                        log.warning("no worker has come up yet: each wants %d CPUs and %d GPUs of one node (`ray "
                                    "status` shows what there is)", self.cpus, self.gpus)
                    if busy and not done:
                        answers = [actor.control.remote() for actor, _ in busy.values()]
                        answers = ray.wait(answers, num_returns=len(busy), timeout=1)[0]
                        with contextlib.suppress(ray.exceptions.RayError):  # one is lost: Ray retries its task
                            bar.update(max(0, stats.samples + sum(ray.get(answers)) - bar.n))
                for actor, _ in busy.values():
                    actor.control.remote(stop.signal)
                for reference in ray.wait([*busy], num_returns=len(busy), timeout=STOP_SECONDS)[0] if busy else []:
                    stats.add(self._result(reference, "a worker was lost")[0])
            finally:
                for actor in actors:
                    ray.kill(actor)
            bar.update(max(0, stats.samples - bar.n))
        stats.stopped_by, stats.seconds["wall"] = stop.signal, time.perf_counter() - began
        return stats

    def _result(self, reference: Any, what: str) -> Any:
        """Return a result. Raises what the actor raised; InputError that begins with `what` if Ray has given up."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, ValueError | OSError) else error) from None
        except self.ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
            reasons = [line for line in lines if not line.startswith("The actor died unexpectedly")]
            reason = [*reasons, *lines, type(error).__name__][0][:300]
            raise InputError(f"--ray: {what} ({reason}); what was computed is kept") from None

    @cached_property
    def _start(self) -> Callable[[], Any]:
        """What starts an actor. Its class is sent whole: a node needs only the driver's clone or an installation."""
        ray = self.ray

        class Extractor:
            def __init__(self, pipeline: str, folder: str, environment: dict[str, str], device: str) -> None:
                import importlib
                import os
                import runpy

                os.environ.update(environment)  # before torch is imported
                if os.path.isdir(folder):
                    os.chdir(folder)  # relative paths of weights
                if os.path.exists(pipeline):
                    runpy.run_path(pipeline)
                worker_class = importlib.import_module("twofold.extract.cluster.ray").Worker
                self.worker = worker_class(device, restarted=ray.get_runtime_context().was_current_actor_reconstructed)

            def call(self, method: str, *arguments: Any) -> Any:
                return getattr(self.worker, method)(*arguments)

            @ray.method(concurrency_group="control", max_task_retries=0)
            def control(self, signal: int = 0) -> int:
                self.worker.stop.set(signal)
                return self.worker.decoded

        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        environment["TWOFOLD_WEIGHTS"] = str(weights_folder().absolute())
        actor_class = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=RESTARTS, max_task_retries=-1,
                                 concurrency_groups={"control": 2})(Extractor)
        return partial(actor_class.remote, str(PIPELINE), os.getcwd(), environment, self.device)


def split(task: ComputeTask, *, workers: int) -> list[ComputeTask]:
    """Divide a task into several of equal size, each with only the keys that it needs."""
    samples = task.samples
    count = max(1, min(TASKS_PER_WORKER * workers, len(samples) // MIN_TASK_SAMPLES))
    return [replace(task, keys=[str(task.keys[row]) for row in rows], files=[
        replace(file, rows=np.searchsorted(rows, mine)) for file in task.files
        if len(mine := np.intersect1d(file.rows, rows, assume_unique=True))])
        for rows in np.array_split(samples, count)]


def _unreadable(task: ComputeTask, key: str) -> str:
    """Return why the image of a key cannot be read here, "" if it can."""
    try:
        task.images.read(key)
    except ImageError as error:
        return str(error)
    return ""


class Worker:
    """One encoder of each source on one device, on a node of a cluster. decoded: samples of the task in hand."""

    def __init__(self, device: str, *, restarted: bool = False):
        self.host, self.decoded, self.stop = socket.gethostname(), 0, Stop()
        self._device, self._restarted, self._encoders = device, restarted, Encoders(device)

    def resolve_auto(self) -> str:
        return resolve_precision("auto", parse_device(self._device))

    def prepare(self, task: ComputeTask, probes: Sequence[str]) -> str:
        """Load the encoders and return the host's name.

        Raises InputError unless this node sees the driver's store and images and makes the same recipes.
        """
        if not Store(task.store, new=True).manifest_path.is_file():
            raise InputError(f"node {self.host} does not see the store {task.store}: {SAME_PATHS}")
        for key in probes:
            if reason := _unreadable(task, key):
                raise InputError(f"node {self.host} cannot read {key!r} ({reason}): {SAME_PATHS}")
        for file in task.files:
            encoder = self._encoders.load(file.source)
            if recipe_of(encoder, file.recipe.view["name"], dtype=file.recipe.dtype,
                         decoder=file.recipe.decoder) != file.recipe:
                raise InputError(f"node {self.host} would make other features of {file.recipe.backbone} than are wanted"
                                 ": its weights, or its version of Twofold or timm, differ")
        return self.host

    def compute(self, task: ComputeTask, published: Collection[str]) -> tuple[RunStats, str]:
        """Compute a task, after a restart only what the lost worker has not published; return a note on that, too.

        published: names of earlier shards.
        """
        stats, note = RunStats(), ""
        if self._restarted:
            task, stats = without_published(task, published)
            note = (f"a worker was lost: {stats.samples} of the {len(task.keys)} samples it had are safe, the others "
                    f"were computed again on {self.host}")
        self.decoded, self._restarted = stats.samples, False

        def count(samples: int) -> None:
            self.decoded += samples

        stats.add(compute_task(task, self._encoders, stop=self.stop, on_decoded=count))
        return stats, note


def without_published(task: ComputeTask, published: Collection[str]) -> tuple[ComputeTask, RunStats]:
    """Return what is left of a task, and what was done, by the shards that are not among `published`."""
    files, stats = [], RunStats()
    for file in task.files:
        fingerprint, paths = file.recipe.fingerprint, shard_paths(Store(task.store, new=True), file.recipe)
        done = cached_rows([FeatureFile(path) for path in paths if path.name not in published])
        keys = {int(row): str(task.keys[row]) for row in file.rows}
        stats.rows[fingerprint] += sum(key in done.place for key in keys.values())
        stats.failures[fingerprint] |= {key: done.failures[key] for key in keys.values() if key in done.failures}
        left = [row for row, key in keys.items() if key not in done.place and key not in done.failures]
        files.append(replace(file, rows=np.array(left, int)))
    rest = replace(task, files=files)
    stats.samples = len(task.samples) - len(rest.samples)
    return rest, stats

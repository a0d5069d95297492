"""Extraction on a Ray cluster: the driver plans, deals out shares to actors and assembles; actors do all of the rest.

Actors of Ray's core, not a Ray Data pipeline. Each runs the loop that one machine runs, decoding included, on a GPU
or the cores of a node, so nothing but keys and counts goes through Ray, and what it computes is safe as soon as a part
of the store is. Ray Data would carry decoded pixels (150 kB a face) through its object store from actors that decode
to actors that encode, and its pools are the weak point just there: GPU pools stay at one actor on an autoscaling
cluster (ray issue 59144), decoding starves a slower stage behind it (65540), pools grow by an actor at a time while
they watch, and an actor that dies may leave the pipeline hanging (62746). Where a node's cores cannot feed its GPU,
`bench extract` says so.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from twofold.data.utils.errors import InputError, first_line
from twofold.extract.cluster.ray_pool import Pool, WorkerSize, size_of_workers
from twofold.extract.cluster.ray_run import compute_on
from twofold.extract.report import Extraction
from twofold.extract.run import Request, extract
from twofold.extract.streams import Stream
from twofold.extract.weights.find import weights_folder

PIPELINE = Path(__file__).parents[2] / "pipeline.py"  #: the command line, installed or in a plain clone
HANDED_ON = ("TWOFOLD_", "OMP_", "GOMP_", "HF_")  #: how the names of variables start that workers get from the driver


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """address: `local` for this machine alone, `auto` or HOST:PORT of a cluster; workers: at most, 0 for as many as the
    cluster has room for when the run begins. With more than that the rest come up as an autoscaler brings nodes."""

    address: str
    workers: int = 0


def extract_on_ray(request: Request, options: RayOptions) -> Extraction:
    """As `extract`, computed by the workers of a cluster. Raises InputError as that does, and for no such cluster."""
    if options.workers < 0:
        raise InputError(f"--ray-workers {options.workers}: there is at least one worker, or 0 for as many as fit")
    with connected(options.address) as ray:
        size = size_of_workers(ray.nodes(), request.device, cpus=request.options.workers, most=options.workers)
        with Pool(ray, worker_class(ray, size), size) as pool:
            streams = exact(request.streams, pool)
            here = replace(request, device="cpu", streams=streams,
                           options=replace(request.options, workers=size.cpus))
            return extract(here, engine=partial(compute_on, pool))


def exact(streams: Sequence[Stream], pool: Pool) -> list[Stream]:
    """The streams in the precision that `auto` is where workers run, which need not be as here."""
    texts = {stream.source.precision for stream in streams}
    precision = {text: pool.precision(text) if text == "auto" else text for text in texts}
    return [replace(stream, source=stream.source.exactly(precision[stream.source.precision])) for stream in streams]


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The library, connected to a cluster. Raises InputError if either is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it is nobody's business
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what will be its default, without the warning
    os.environ.setdefault("RAY_worker_niceness", "0")  # of workers on this machine; Ray's 15 starves on a busy one
    try:
        import ray
    except ImportError:
        raise InputError('--ray needs Ray: pip install "twofold[ray]", or pip install ray') from None
    ours = not ray.is_initialized()  # else of a notebook, or of a job that was submitted: it stays
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own notes belong: stdout is the report's
        try:
            if ours:
                _require_listener(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR,
                         include_dashboard=False if address == "local" else None)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {address}: no such cluster ({first_line(error)}): `local` is this machine, "
                             "`ray start --head` prints the address of a new one") from None
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT, which Ray would find out after minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def worker_class(ray: Any, size: WorkerSize) -> Any:
    """Makes an actor. Its class is sent whole: a node need only see the driver's clone, or have Twofold installed."""

    class Extractor:
        def __init__(self, pipeline: str, folder: str, environment: dict[str, str], device: str) -> None:
            import os
            import runpy

            os.environ.update(environment)  # before torch is imported
            if os.path.isdir(folder):
                os.chdir(folder)  # what weights are called relative to it
            if os.path.exists(pipeline):
                runpy.run_path(pipeline)
            from twofold.extract.cluster.ray_worker import Worker

            self.worker = Worker(device)

        def precision(self, text: str) -> str:
            return self.worker.precision(text)

        def prepare(self, *work: Any) -> str:
            self.worker.prepare(*work)
            return self.worker.host

        def carry_out(self, share: Any) -> Any:
            return self.worker.carry_out(share)

        @ray.method(concurrency_group="aside")
        def faces(self) -> int:
            return self.worker.faces

        @ray.method(concurrency_group="aside")
        def stop(self, signal: int) -> None:
            self.worker.stop(signal)

    environment = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
    environment["TWOFOLD_WEIGHTS"] = str(weights_folder().absolute())
    actor = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_restarts=0,
                       concurrency_groups={"aside": 1})(Extractor)
    return partial(actor.remote, str(PIPELINE), os.getcwd(), environment, size.device)

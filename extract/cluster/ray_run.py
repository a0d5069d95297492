"""One run on a pool of actors: shares are dealt out as actors come up, and taken back from those that are lost."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from twofold.data.images.decode import ImageError
from twofold.data.images.sources import ImageSource
from twofold.data.utils.errors import InputError
from twofold.extract.assignment import Assignment
from twofold.extract.cluster.ray_pool import Pool, as_ours, reason_of
from twofold.extract.cluster.shares import ATTEMPTS, LEAST_FACES, Share, Shares
from twofold.extract.engine.progress import progress_bar
from twofold.extract.engine.stop import Stop
from twofold.extract.engine.tally import Tally, refuse_too_many

WATCH_SECONDS = 1.0  #: between two looks at how far the workers are
PATIENCE_SECONDS = 60.0  #: before it is said that no worker has come up
PROBES = 16  #: faces that every node must be able to read
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """An actor, and the share that it has in hand once it is ready; faces: decoded of that, as far as is known."""

    actor: Any
    host: str = ""
    share: Share | None = None
    faces: int = 0


def compute_on(pool: Pool, work: Assignment) -> Tally:
    """Carry out an assignment on a pool: an engine of extraction, which raises as any does.

    On Ctrl-C or SIGTERM actors finish the batches in hand and publish them, and `Tally.stopped_by` says so.
    """
    began = time.perf_counter()
    run = Run(pool, work)
    with Stop() as stop, progress_bar(run.shares.faces, shown=True) as bar:
        run.begin()
        while run.waited and not stop.signal:
            run.advance()
            _show(bar, run)
        if stop.signal:
            run.stop(stop.signal)
        _show(bar, run)
    run.tally.stopped_by = stop.signal
    run.tally.seconds.wall = time.perf_counter() - began
    return run.tally


class Run:
    """The shares of a run, who has which, and what is done. waited: for each result that is to come, from whom."""

    def __init__(self, pool: Pool, work: Assignment):
        self.pool, self.ray = pool, pool.ray
        self.work, self.probes = work, _probes(work.faces, work.keys)
        self.shares, self.tally = Shares(work, workers=pool.size.count), Tally()
        self.waited: dict[Any, Member] = {}
        self._failed_starts = 0  #: in a row
        self._began = time.monotonic()
        self._patient_until = self._began + PATIENCE_SECONDS

    @property
    def faces(self) -> int:
        """Decoded, as far as is known."""
        return self.tally.faces + sum(member.faces for member in self.waited.values())

    def begin(self) -> None:
        """Ask for as many actors as there is work for; which of them comes up first begins first."""
        for _ in range(min(self.pool.size.count, -(-self.shares.faces // LEAST_FACES))):
            self._enlist()

    def advance(self) -> None:
        """Take what has come, or after a while look how far all are."""
        done, _ = self.ray.wait([*self.waited], timeout=WATCH_SECONDS)
        for result in done:
            self._take(result)
        if not self.shares.left:
            self._dismiss_idle()
        if not done:
            self._watch()

    def stop(self, signal: int) -> None:
        """Nothing more is dealt; who has a share finishes its batches."""
        self.shares.close()
        self._dismiss_idle()
        for member in self.waited.values():
            member.actor.stop.remote(signal)
        while self.waited:
            self.advance()

    def _enlist(self) -> None:
        actor = self.pool.actor()
        kinds = [replace(file, rows=file.rows[:0]) for file in self.work.files]
        self.waited[actor.prepare.remote(replace(self.work, keys=[], files=kinds), self.probes)] = Member(actor)

    def _take(self, result: Any) -> None:
        member = self.waited.pop(result)
        try:
            value = self.ray.get(result)
        except self.ray.exceptions.RayTaskError as error:
            raise as_ours(error) from None
        except self.ray.exceptions.RayError as error:
            self._replace(member, reason_of(error))
            return
        if member.share is None:
            member.host, self._failed_starts = value, 0
            log.info("a worker on %s is ready after %.1f s", value, time.monotonic() - self._began)
        else:
            self._add(value)
        self._deal(member)

    def _add(self, done: Tally) -> None:
        self.tally.add(done)
        if self.work.options.max_failures >= 0:
            refuse_too_many(self.tally.failed_faces, self.work.options.max_failures)

    def _deal(self, member: Member) -> None:
        member.share, member.faces = None, 0
        if self.shares.left:
            member.share = self.shares.deal()
            self.waited[member.actor.carry_out.remote(member.share.assignment)] = member
        else:
            self.pool.drop(member.actor)

    def _replace(self, member: Member, reason: str) -> None:
        """An actor was lost, perhaps with its node."""
        self.pool.drop(member.actor)
        if member.share is None:
            self._failed_starts += 1
            if self._failed_starts == ATTEMPTS:
                raise InputError(f"--ray: {ATTEMPTS} workers, one after the other, did not start ({reason})")
        else:
            done = self.shares.take_back(member.share, reason=reason)
            log.warning("a worker on %s was lost (%s): %d of the %d faces it had are safe, the others are dealt again",
                        member.host, reason, done.faces, member.share.faces)
            self._add(done)
        if self.shares.left:
            self._enlist()

    def _dismiss_idle(self) -> None:
        """Those that are not ready yet are not needed any more."""
        for result, member in [*self.waited.items()]:
            if member.share is None:
                del self.waited[result]
                self.pool.drop(member.actor)

    def _watch(self) -> None:
        busy = {member.actor.faces.remote(): member for member in self.waited.values() if member.share}
        if busy:
            self._patient_until = float("inf")
        elif time.monotonic() > self._patient_until:
            self._patient_until = time.monotonic() + PATIENCE_SECONDS
            size = self.pool.size
            log.warning("no worker has come up yet: each wants %d CPUs and %d GPUs of one node (`ray status` shows "
                        "what there is)", size.cpus, size.gpus)
        for result in self.ray.wait([*busy], num_returns=len(busy), timeout=WATCH_SECONDS)[0] if busy else []:
            try:
                busy[result].faces = self.ray.get(result)
            except self.ray.exceptions.RayError:
                continue  # it is lost: its share's own result says so


def _show(bar: tqdm, run: Run) -> None:
    bar.update(max(0, run.faces - bar.n))  # never backwards, though a lost worker's faces are decoded again


def _probes(faces: ImageSource, keys: Sequence[str]) -> list[str]:
    """Keys, spread over all, of faces that can be read here."""
    return [key for key in keys[::max(1, len(keys) // PROBES)][:PROBES] if _is_readable(faces, key)]


def _is_readable(faces: ImageSource, key: str) -> bool:
    try:
        faces.read(key)
        return True
    except ImageError:
        return False

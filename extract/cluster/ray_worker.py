"""What a worker on a node of a Ray cluster does: it keeps its encoders, computes shares, and says how far it is."""

import socket
from collections.abc import Sequence

from twofold.cache.store import Store
from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError
from twofold.extract.assignment import Assignment, MissingRows
from twofold.extract.devices import parse_device, resolve_precision
from twofold.extract.engine.processes import carry_out
from twofold.extract.engine.stop import Stop
from twofold.extract.engine.tally import Tally
from twofold.extract.plan import recipe_of
from twofold.extract.streams import Encoders
from twofold.extract.views import view

SAME_PLACE = "all nodes need the store, the faces and the weights at the paths that they have here"


class Worker:
    """One encoder of each kind on one device. `stop` and `faces` may be asked for by another thread meanwhile."""

    def __init__(self, device: str):
        self.host = socket.gethostname()
        self.faces = 0  #: decoded of the share in hand
        self._device, self._stop = device, Stop()
        self._encoders = Encoders(device)

    def precision(self, text: str) -> str:
        """`auto`, `fp32`, `bf16` or `fp16` as one of the last three, as it is for this worker's device."""
        return resolve_precision(text, parse_device(self._device))

    def prepare(self, work: Assignment, probes: Sequence[str]) -> None:
        """Load the encoders, and see what the driver sees: its store, these faces, and features of these recipes.

        Raises InputError where that is not so.
        """
        if not Store(work.store, new=True).manifest_path.is_file():
            raise InputError(f"node {self.host} does not see the store {work.store}: {SAME_PLACE}")
        for key in probes:
            try:
                work.faces.read(key)
            except ImageError as error:
                raise InputError(f"node {self.host} cannot read {key!r} ({error}): {SAME_PLACE}") from None
        for file in work.files:
            self._require_same_recipe(file)

    def _require_same_recipe(self, file: MissingRows) -> None:
        encoder, wanted = self._encoders.load(file.source), file.recipe
        if recipe_of(encoder, view(wanted.view["name"]), dtype=wanted.dtype) != wanted:
            raise InputError(f"node {self.host} would make other features of {wanted.backbone} than are wanted here: "
                             "its weights, or its version of Twofold or timm, differ")

    def carry_out(self, share: Assignment) -> Tally:
        """Compute a share and leave it in parts of the store."""
        self.faces = 0
        return carry_out(share, self._encoders, stop=self._stop, decoded=self._count)

    def _count(self, faces: int) -> None:
        self.faces += faces

    def stop(self, signal: int) -> None:
        """Let the share in hand end with the batches that are under way."""
        self._stop.signal = signal

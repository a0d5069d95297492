"""One process or several (torchrun), each with its device: what they share, and who writes."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Processes:
    """This process among `count`, which compute the parts of each step in turn and add up their gradients."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes and speaks."""
        return self.rank == 0

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over the processes."""
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    @contextlib.contextmanager
    def last_part(self, network: nn.Module, last: bool) -> Iterator[None]:
        """Around forward and backward of a part: gradients travel after the last one only."""
        if self.count == 1 or last:
            yield
        else:
            with cast(nn.parallel.DistributedDataParallel, network).no_sync():
                yield

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(value)
        return value

    def agreed(self, signal: int) -> int:
        """The largest of the processes' signals, so that all stop after the same step."""
        if self.count == 1:
            return signal
        value = torch.tensor(signal)
        if distributed.get_backend() == "nccl":
            value = value.cuda()
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return int(value)


@contextlib.contextmanager
def launched(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that torchrun started, this one's device among them; or one process alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device("cuda", local) if device.type == "cuda" else device
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count), own
    finally:
        distributed.destroy_process_group()

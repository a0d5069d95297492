"""Where and in which arithmetic a network runs."""

import torch

from twofold.data.utils.machine import cpu_has_bf16, resolve_device
from twofold.extract.precision import resolved

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_device(text: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there. Raises InputError if it is not."""
    return torch.device(resolve_device(text, cuda_devices=torch.cuda.device_count(),
                                    mps=torch.backends.mps.is_available()))


def resolve_precision(text: str, device: torch.device) -> str:
    """`auto`, `fp32`, `bf16` or `fp16` as one of the last three; auto is bf16 where the hardware has it natively.

    Raises InputError for any other text.
    """
    return resolved(text, native_bf16=has_native_bf16(device))


def has_native_bf16(device: torch.device) -> bool:
    """True if the device multiplies bfloat16 in hardware, so that it is faster there and not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bf16()


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)  # the latter: the CPU's

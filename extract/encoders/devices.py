"""On which device and in which precision a network runs."""

import torch

from twofold.cache.recipe import PRECISIONS as PRECISION_NAMES
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import cpu_has_bf16, resolve_device

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_device(text: str) -> torch.device:
    """Return `auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there. Raises InputError if it is not."""
    return torch.device(resolve_device(text, cuda_devices=torch.cuda.device_count(),
                                    mps=torch.backends.mps.is_available()))


def resolve_precision(text: str, device: torch.device) -> str:
    """Return `auto`, `fp32`, `bf16` or `fp16` as one of the last three; auto is bf16 where the hardware has it.

    Raises InputError for any other text.
    """
    if text == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    if text not in PRECISION_NAMES:
        raise InputError(f"unknown precision {text!r}: choose auto, fp32, bf16 or fp16")
    return text


def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware, so that it is faster there and not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bf16()


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)  # the latter: the CPU's

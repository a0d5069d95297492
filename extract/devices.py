"""Where and in which arithmetic a network runs."""

import torch

from twofold.data.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_device(text: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there. Raises InputError if it is not."""
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps") or (device.type == "cpu" and device.index):
        raise InputError(f"unknown device {text!r}: choose auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {text} is not on this machine, which has {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not on this machine")
    return device


def resolve_precision(text: str, device: torch.device) -> str:
    """`auto`, `fp32`, `bf16` or `fp16` as one of the last three; auto is bf16 where the hardware has it natively.

    Raises InputError for any other text.
    """
    if text == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    if text not in PRECISIONS:
        raise InputError(f"unknown precision {text!r}: choose auto, fp32, bf16 or fp16")
    return text


def has_native_bf16(device: torch.device) -> bool:
    """True if the device multiplies bfloat16 in hardware, so that it is faster there and not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> set[str]:
    """Instruction sets as Linux names them; empty on other systems, where fp32 is the safe choice."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()[2:]}
    except OSError:
        return set()

"""Where heads train and in which arithmetic."""

import torch

from twofold.data.errors import InputError


def parse_device(text: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there. Raises InputError if it is not."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise InputError(f"unknown device {text!r}: choose auto, cpu, cuda, cuda:N or mps") from None
    there = {"cpu": not device.index, "mps": torch.backends.mps.is_available(),
             "cuda": device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()}
    if not there.get(device.type, False):
        raise InputError(f"device {text} is not on this machine: choose auto or cpu")
    return device


def resolve_precision(text: str, device: torch.device) -> str:
    """`auto`, `fp32` or `bf16` as one of the last two; auto is bf16 where the hardware multiplies it natively."""
    if text != "auto":
        return text
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _native() else "fp32"


def _native() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return any({"avx512_bf16", "amx_bf16", "bf16"} & set(line.split()) for line in lines
                       if line.startswith(("flags", "Features")))
    except OSError:
        return False

"""Where heads train and in which arithmetic."""

import torch

from twofold.data.utils.machine import cpu_has_bf16, resolve_device


def parse_device(text: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there. Raises InputError if it is not."""
    return torch.device(resolve_device(text, cuda_devices=torch.cuda.device_count(),
                                    mps=torch.backends.mps.is_available(), auto=("cuda", "cpu")))


def resolve_precision(text: str, device: torch.device) -> str:
    """`auto`, `fp32` or `bf16` as one of the last two; auto is bf16 where the hardware multiplies it natively."""
    if text != "auto":
        return text
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    native = device.type == "cpu" and cpu_has_bf16() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native else "fp32"


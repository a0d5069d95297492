"""The precision that a text means on a device, and without torch where that can only be the CPU."""

from twofold.cache.recipe import PRECISIONS
from twofold.data.errors import InputError
from twofold.data.host.machine import cpu_has_bf16, device_name, only_cpu


def resolved(text: str, *, native_bf16: bool) -> str:
    """`auto`, `fp32`, `bf16` or `fp16` as one of the last three. Raises InputError for any other text."""
    if text == "auto":
        return "bf16" if native_bf16 else "fp32"
    if text not in PRECISIONS:
        raise InputError(f"unknown precision {text!r}: choose auto, fp32, bf16 or fp16")
    return text


def precision_on(device: str, text: str) -> str:
    """As `resolved`, for a device by name. Raises InputError for one that this machine lacks, too."""
    if only_cpu():
        device_name(device, cuda_devices=0, mps=False)
        return resolved(text, native_bf16=cpu_has_bf16())
    from twofold.extract.devices import parse_device, resolve_precision

    return resolve_precision(text, parse_device(device))

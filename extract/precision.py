"""The arithmetic of forward passes, by name."""

from twofold.cache.recipe import PRECISIONS
from twofold.data.utils.errors import InputError


def resolved(text: str, *, native_bf16: bool) -> str:
    """`auto`, `fp32`, `bf16` or `fp16` as one of the last three. Raises InputError for any other text."""
    if text == "auto":
        return "bf16" if native_bf16 else "fp32"
    if text not in PRECISIONS:
        raise InputError(f"unknown precision {text!r}: choose auto, fp32, bf16 or fp16")
    return text

"""From the objects that were in a weights file to its tensors, or to a sentence on why there are none."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from twofold.extract.weights.safe_pickle import Array, LazyTensor, Placeholder

CONTAINERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


def weights_in(tree: Any, read: Callable[[LazyTensor], torch.Tensor]) -> tuple[str, dict[str, torch.Tensor]] | None:
    """(name of the entry, or "" for the file itself; flat names to tensors), or None if there are no weights."""
    if not isinstance(tree, Mapping):
        return None
    for name in CONTAINERS:
        inner = tree.get(name)
        if isinstance(inner, Mapping) and _share_of_tensors(inner) > 0.5:
            return name, without_prefixes(_tensors(inner, read))
    return ("", without_prefixes(_tensors(tree, read))) if _share_of_tensors(tree) == 1 else None


def without_prefixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as the network has them, whatever wrapped it, in whatever order."""
    while prefix := _shared_prefix(tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _shared_prefix(names: Collection[str]) -> str:
    """The one of PREFIXES that all names start with, or nothing."""
    return next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def _share_of_tensors(entries: Mapping) -> float:
    return sum(isinstance(name, str) and _is_tensor(value) for name, value in entries.items()) / max(1, len(entries))


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor | LazyTensor | np.ndarray) or \
        (isinstance(value, Array) and getattr(value, "value", None) is not None)


def _tensors(entries: Mapping, read: Callable[[LazyTensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: _tensor(value, read) for name, value in entries.items()
            if isinstance(name, str) and _is_tensor(value)}


def _tensor(value: Any, read: Callable[[LazyTensor], torch.Tensor]) -> torch.Tensor:
    if isinstance(value, LazyTensor):
        return read(value)
    if isinstance(value, Array):
        array = value.value
        if array is None:
            raise ValueError("an array holds nothing that is a plain number")
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"a tensor of {value.numel()} numbers is declared over fewer")
    return value.detach()


def best_accuracy(tree: Any, read: Callable[[LazyTensor], torch.Tensor]) -> float | None:
    """The `best_acc` that training scripts store, in their unit (mostly percent), if the file has one."""
    value = tree.get("best_acc") if isinstance(tree, Mapping) else None
    if _is_tensor(value):
        tensor = _tensor(value, read)
        return float(tensor) if tensor.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None


def entries_in(tree: Any) -> dict[str, str]:
    """The top-level entries and what each is, for a person."""
    if not isinstance(tree, Mapping):
        return {"": _kind(tree)}
    if _share_of_tensors(tree) == 1:
        return {"": f"{len(tree)} tensors"}
    return {str(name)[:80]: _kind(value) for name, value in list(tree.items())[:50]}


def _kind(value: object) -> str:
    if isinstance(value, Placeholder | type):
        return "an object of a class that was not loaded"
    if isinstance(value, Mapping):
        tensors = sum(map(_is_tensor, value.values()))
        return f"{tensors} tensors" if tensors else f"{len(value)} entries"
    if _is_tensor(value):
        return "a tensor"
    return f"{value!r:.60}" if isinstance(value, bool | int | float | str) else type(value).__name__


def why_none(tree: Any) -> str:
    """Finish the sentence "the file ..." for a file without weights."""
    if isinstance(tree, Placeholder):
        return ("is a whole model, pickled with the class of its author, whose code would have to run to read it: "
                "save its state_dict() and use that")
    if isinstance(tree, Mapping):
        inner = [tree, *(tree.get(name) for name in CONTAINERS)]
        if "optimizer" in tree or any(isinstance(part, Mapping) and "param_groups" in part for part in inner):
            return ("holds the state of an optimizer and no weights, as the files saved as 'best' by POSTER++'s newest "
                    "training script do: take the released checkpoint instead")
        whole = next((name for name in CONTAINERS if isinstance(tree.get(name), Placeholder)), None)
        if whole:
            return f"holds a whole pickled model under {whole!r}, which cannot be read safely: save its state_dict()"
        return f"holds no weights, only {', '.join(map(repr, entries_in(tree))) or 'nothing'}"
    return f"holds no weights but {_kind(tree)}"

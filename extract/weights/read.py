"""Read any published weights file as data, and say what is wrong with it if it holds no weights."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from twofold.data.utils.errors import InputError
from twofold.extract.weights.pickles import Array, StandIn, TooMuch, bounded_memory, read_pickle, read_zip

#: words in the names of averaged weights: of an EMA, stochastic weight averaging, a mean teacher
AVERAGE_WORDS = {"ema", "swa", "average", "averaged", "averaging", "avg", "polyak", "shadow", "teacher"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  #: of a name, in camel case, too: EMACallback, model_ema, netEMA
LEVELS = 3  #: of entries below the top in which weights are looked for
MAX_PARTS = 1_000  #: looked at
SMALL_SHARE = 10  #: a set with less than a tenth of the tensors of the largest is no network: a loss, statistics
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]{1,80}")  #: of an entry that may be shown and asked for
#: where weights usually are; of several sets the first of these is taken, where none is an average
CONTAINERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
MAX_MODULES = 20_000  #: of a whole pickled model
COUNTER = "n_averaged"  #: of torch.optim.swa_utils.AveragedModel
AGAIN = "download it again"
_PAGE = ("a web page, not weights: the download was answered with a login, quota or error page; open it in a browser, "
         f"then {AGAIN}")
OTHER_FILES = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights themselves: run `git lfs pull` where it comes "
                                f"from, or {AGAIN} from the page's download link",
    **dict.fromkeys((b"<!doctype", b"<html", b"<?xml", b"<head"), _PAGE),
    b"{": f"a JSON text, not weights: {AGAIN}",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes: PyTorch weights are needed"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of a file and what else was in it.

    container: the entry that the weights were under, "" for the file itself; others: further entries with as many
    weights, or nearly; unread: entries with what seems an average of the weights, but without or under other names;
    entries: top-level entries and what each is; dropped: names of classes and functions that were left unread, with
    how often.
    """

    path: Path
    format: str
    tensors: dict[str, torch.Tensor] = field(repr=False)
    container: str = ""
    others: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    entries: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Describe the file without its tensors."""
        parameters = sum(tensor.numel() for tensor in self.tensors.values() if tensor.is_floating_point())
        return {"format": self.format, "container": self.container, "tensors": len(self.tensors),
                "parameters": parameters, "entries": self.entries, "dropped": self.dropped}


def read_checkpoint(path: Path, *, entry: str = "") -> Checkpoint:
    """Read safetensors, torch files new and old (whole pickled models, too), and plain pickles of arrays, all as data.

    entry: the one that the weights are under, such as `model`, `ema.module` or the first words of names in it,
    `student.backbone`. By default averaged ones that match the others, then the first of CONTAINERS, then the largest.
    Raises InputError that says what the file is instead: an error page, a Git LFS pointer, a cut-off download, an
    optimizer's state, or something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(512)
    refuse_other_files(path, start, size)
    try:
        with bounded_memory(size):
            if start[4:9] == b"\0\0\0\0{":  # the length of a header as 64 bits, and its first character
                with safe_open(path, framework="pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                    return _checkpoint(path, entry, "safetensors", tensors, {}, file.metadata() or {})
            if start[:4] == b"PK\x03\x04":
                return _checkpoint(path, entry, "torch", *read_zip(path, size))
            if start[:1] == b"\x80":
                return _checkpoint(path, entry, *read_pickle(path))
    except InputError:
        raise
    except TooMuch as error:
        raise InputError(f"{path} was made to overwhelm its reader ({error}): it was refused") from None
    except MemoryError:
        raise InputError(f"{path} takes far more memory than its size: it was refused") from None
    except Exception as error:  # whatever reading trips over is the file's fault: it is data that we were given
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise InputError(f"{path} is cut off or damaged, at {size} bytes ({reason}): {AGAIN}") from None
    if path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX model: name it as a backbone, onnx:{path}")
    raise InputError(f"{path} is not a weights file: it starts with {start[:8]!r}")


def refuse_other_files(path: Path, start: bytes, size: int) -> None:
    """Raise InputError if the first bytes of a file are those of what people get instead of weights."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        raise InputError(f"{path} is empty: {AGAIN}")
    for beginning, what in OTHER_FILES.items():
        if text.startswith(beginning) or start.startswith(beginning):
            raise InputError(f"{path} is {what}")


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for every other file. Raises OSError."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ------------------------------------------------------------------------------------- from objects to a state dict
def _checkpoint(path: Path, entry: str, form: str, tree: Any, dropped: dict[str, int],
                metadata: dict[str, str] | None = None) -> Checkpoint:
    if isinstance(tree, StandIn):
        tree, form = _module_state(tree) or tree, f"{form}, a whole pickled model"
    sets = _find_sets(tree)
    names = _by_preference(sets)
    if not names:
        classes = f" (it also names {', '.join(list(dropped)[:3])}; none of that was run)" if dropped else ""
        raise InputError(f"{path} {_why_no_weights(tree)}{classes}")
    container, taken = names[0], sets[names[0]]
    if entry:
        inside = filter(None, (below(sets[name], entry) for name in names))
        container, taken = entry, sets.get(entry) or next(inside, {})
    if not taken:
        words = dict.fromkeys(word for word in (name.partition(".")[0] for name in _named_tensors(sets[names[0]]))
                              if PLAIN_NAME.fullmatch(word))
        raise InputError(f"{path} holds no weights under {entry!r}: it has them under "
                         f"{', '.join(map(repr, [*filter(None, names), *words][:12]))}")
    tensors = {name: _tensor(value) for name, value in _named_tensors(taken).items()}
    unread = _unread_averages(tree, sets)
    others = [name for name in names
              if name not in ("", container, *unread) and 2 * len(sets[name]) >= len(taken)]
    return Checkpoint(path=path, format=form, tensors=_without_prefixes(tensors), container=container, dropped=dropped,
                      others=tuple(others), unread=tuple(unread if container == names[0] else ()),
                      entries=_description(tree), metadata=metadata or {})


def below(entries: Mapping, words: str) -> dict[str, Any]:
    """The entries whose names begin with these words and a dot, without them."""
    return {name.removeprefix(f"{words}."): value for name, value in entries.items()
            if isinstance(name, str) and name.startswith(f"{words}.")}


def _find_sets(tree: Any) -> dict[str, Mapping]:
    """Every set of named weights in a file, by its entry (`ema`, or `ema.module` where `ema` has several), each once,
    since a file can hold one object many times. A set of weights is mostly tensors; where the file itself is one, the
    others are the averages beside its tensors."""
    whole = {"": tree} if _share_of_tensors(tree) > 0.5 else {}
    found: dict[str, list[tuple[str, Mapping]]] = {}
    for top, path, part in _walk(tree):
        if _share_of_tensors(part) > 0.5 and (not whole or is_average(top) or is_average(path)):
            found.setdefault(top, []).append((path, part))
    sets = {top if len(parts) == 1 and is_average(top) == is_average(path) else path: part
            for top, parts in found.items() for path, part in parts}
    sets = whole | sets
    most = max(map(len, sets.values()), default=0)
    return {name: part for name, part in sets.items() if SMALL_SHARE * len(part) >= most}


def _walk(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """What a file holds, level by level, each object once: its top-level entry, its path, and itself."""
    waiting, seen = [(name, name, value, 0) for name, value in islice(_inner(tree), MAX_PARTS)], {id(tree): tree}
    for _ in range(MAX_PARTS):
        if not waiting:
            return
        top, path, held, level = waiting.pop(0)
        if id(held) in seen:
            continue
        seen[id(held)] = held
        part = _module_state(held) or held if isinstance(held, StandIn) else held
        yield top, path, part
        if level < LEVELS:
            waiting += [(top, f"{path}.{name}", inner, level + 1) for name, inner in islice(_inner(part), MAX_PARTS)]


def _inner(part: Any) -> Iterator[tuple[str, Any]]:
    """The containers in a part of a file, by the plain beginnings of their names (`EMA` of Lightning's "EMA{'decay':
    0.99}"); nothing of an optimizer, whose averages have the weights' shapes."""
    names: set[str] = set()
    if isinstance(part, list | tuple):
        part = {str(place): value for place, value in enumerate(islice(part, MAX_PARTS))}
    for name, value in part.items() if isinstance(part, Mapping) and "param_groups" not in part else ():
        start = PLAIN_NAME.match(name) if isinstance(name, str) and not name.startswith("optim") else None
        if start and isinstance(value, Mapping | list | tuple | StandIn):
            plain = f"{start[0]}.{len(names)}" if start[0] in names else start[0]
            names.add(plain)
            yield plain, value


def _by_preference(sets: Mapping[str, Mapping]) -> list[str]:
    """Names of the sets, the one to take first: the file itself; averages of others, as timm takes them; usual names;
    large ones."""
    shapes = {name: _names_and_shapes(entries) for name, entries in sets.items()}
    raw = [shapes[name] for name in sets if not is_average(name)]
    averages = [name for name in sets if is_average(name) and shapes[name] in raw]
    place = {name: number for number, name in enumerate(CONTAINERS)}
    rest = [name for name in sets if name not in averages]
    rest.sort(key=lambda name: (name != "", place.get(name, len(place)), is_average(name), -len(sets[name])))
    return averages + rest if "" not in sets else ["", *averages, *(name for name in rest if name)]


def _unread_averages(tree: Any, sets: Mapping[str, Mapping]) -> list[str]:
    """Entries that seem an average of weights but have not their names: shadow parameters in a list, or without
    buffers."""
    raw = [_shapes(entries) for name, entries in sets.items() if not is_average(name)]
    same = [_names_and_shapes(entries) for name, entries in sets.items() if not is_average(name)]
    unread = [top if is_average(top) else path for top, path, part in _walk(tree)
              if is_average(path) and isinstance(part, Mapping | list | tuple)
              and not (isinstance(part, Mapping) and _names_and_shapes(part) in same)
              and any(_seems_average(part, shapes) for shapes in raw)]
    return list(dict.fromkeys(unread))


def is_average(name: object) -> bool:
    """Whether an entry's name says that its weights are averaged ones."""
    return (isinstance(name, str) and PLAIN_NAME.fullmatch(name) is not None
            and not AVERAGE_WORDS.isdisjoint(word.lower() for word in WORD.findall(name)))


def _named_tensors(entries: Mapping) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if isinstance(name, str) and _is_tensor(value)}


def _names_and_shapes(entries: Mapping) -> dict[str, tuple[int, ...]]:
    """Without words before all names, and without what is only counted."""
    shapes = {name: _shape(value) for name, value in _named_tensors(entries).items()
              if name != COUNTER and not name.endswith("num_batches_tracked")}
    for _ in range(3):  # wrappers
        if len({name.partition(".")[0] for name in shapes}) != 1 or not all("." in name for name in shapes):
            break
        shapes = {name.partition(".")[2]: shape for name, shape in shapes.items()}
    return shapes


def _shapes(part: Mapping | list | tuple) -> Counter[tuple[int, ...]]:
    """How often a tensor of each shape is there, single numbers aside."""
    values = part.values() if isinstance(part, Mapping) else part
    return Counter(shape for value in values if _is_tensor(value) and (shape := _shape(value)))


def _seems_average(part: Mapping | list | tuple, raw: Counter[tuple[int, ...]]) -> bool:
    """Whether a part has only shapes that the raw weights have, and half of their tensors or more."""
    shapes = _shapes(part)
    return 0 < raw.total() <= 2 * shapes.total() and all(count <= raw[shape] for shape, count in shapes.items())


def _shape(value: Any) -> tuple[int, ...]:
    tensor = value.value if isinstance(value, Array) else value
    return () if tensor is None else tuple(tensor.shape)


def _module_state(module: StandIn) -> dict[str, Any]:
    """The state dict of a pickled module, whose class is not loaded; empty for another object."""
    tensors, waiting = {}, [("", module)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return tensors
        prefix, part = waiting.pop()
        state = part.state if isinstance(part, StandIn) and isinstance(part.state, Mapping) else {}
        own, buffers, inner = (state.get(name) or {} for name in ("_parameters", "_buffers", "_modules"))
        passing = state.get("_non_persistent_buffers_set") or ()
        kept = {**own, **{name: value for name, value in buffers.items() if name not in passing}}
        tensors |= {f"{prefix}{name}": value for name, value in kept.items() if _is_tensor(value)}
        waiting += [(f"{prefix}{name}.", child) for name, child in reversed(inner.items())]
    raise TooMuch(f"it has more than {MAX_MODULES} modules")


def _without_prefixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as the network has them, whatever wrapped it, in whatever order; without AveragedModel's counter."""
    if COUNTER in tensors and len(tensors) > 1:
        tensors = {name: tensor for name, tensor in tensors.items() if name != COUNTER}
    while len({name.partition(".")[0] for name in tensors}) == 1 and next(iter(tensors)).startswith(PREFIXES):
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _share_of_tensors(entries: Any) -> float:
    if not isinstance(entries, Mapping):
        return 0.0
    return sum(isinstance(name, str) and _is_tensor(value) for name, value in entries.items()) / max(1, len(entries))


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray) or (isinstance(value, Array) and value.value is not None)


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, Array):
        array: Any = value.value
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"a tensor of {value.numel()} numbers is declared over fewer")
    return value.detach()


def _description(tree: Any) -> dict[str, str]:
    """The top-level entries and what each is, for a person."""
    if _share_of_tensors(tree) > 0.5:
        return {"": f"{len(tree)} tensors"}
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {str(name)[:80]: _kind(value) for name, value in islice(entries, 50)}


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{sum(map(_is_tensor, value.values()))} tensors of {len(value)} entries"
    if isinstance(value, StandIn | type) and not _is_tensor(value):
        return "an object of a class that was not loaded"
    return f"{value!r:.60}" if isinstance(value, bool | int | float | str) else type(value).__name__.lower()


def _why_no_weights(tree: Any) -> str:
    """Finish the sentence "the file ..." for a file without weights."""
    if isinstance(tree, StandIn):
        return ("is a pickled object of a class of its author, whose code would have to run to read it: save the "
                "model's state_dict() and use that")
    if not isinstance(tree, Mapping):
        return f"holds no weights but {_kind(tree)}"
    inner = [tree, *(tree.get(name) for name in CONTAINERS)]
    if "optimizer" in tree or any(isinstance(part, Mapping) and "param_groups" in part for part in inner):
        return ("holds the state of an optimizer and no weights, as the files saved as 'best' by POSTER++'s newest "
                "training script do: take the released checkpoint instead")
    if whole := next((name for name in CONTAINERS if isinstance(tree.get(name), StandIn)), None):
        return f"holds a pickled object under {whole!r}, which cannot be read safely: save the model's state_dict()"
    return f"holds no weights, only {', '.join(map(repr, list(_description(tree)))) or 'nothing'}"

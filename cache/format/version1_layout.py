"""What may stand in a feature file of version 1: checked before anything is read, since it may be a stranger's.

Every check looks at HDF5 metadata only, so a header that claims terabytes costs nothing.
"""

import math
import os

import h5py
import numpy as np

from twofold.cache.errors import DamagedFile
from twofold.cache.format.header import FORMAT, MAX_DIM, MAX_TEXT_BYTES
from twofold.cache.format.header import VERSION1_ATTRIBUTES as ATTRIBUTES

TEXTS = ("keys", "sha256", "failures/keys", "failures/reasons")
OPTIONAL = frozenset({"logits", "classifier"})  #: logits: one row a key, as files had them once
TAUGHT = {"taught_sha256": 32, "taught_groups": 16}  #: of /classifier, optional: bytes of a row
CHUNK_ROWS = 256
MAX_ATTRIBUTE_BYTES = 1 << 16
FEATURE_TYPES = {"float16": h5py.h5t.IEEE_F16LE, "float32": h5py.h5t.IEEE_F32LE}


def check_layout(file: h5py.File) -> None:
    """Raise DamagedFile unless `file` holds just what the format lists, stored in plain chunks."""
    _check_attributes(file)
    _check_members(file, {"features", "keys", "sha256", "failures"}, OPTIONAL)
    _check_members(_group(file, "failures"), {"keys", "reasons"}, frozenset())
    rows, dim = _check_numbers(file, "features")
    for name in TEXTS:
        shape = _check_texts(file, name)
        if name in ("keys", "sha256") and shape != (rows,):
            raise DamagedFile(f"/{name} has shape {shape}, not ({rows},) as /features has rows")
    if "logits" in file and (logits := _check_numbers(file, "logits")[0]) != rows:
        raise DamagedFile(f"/logits has {logits} rows, not {rows} as /features")
    if "classifier" in file:
        _check_classifier(file, dim)
    if _dataset(file, "failures/keys").shape != _dataset(file, "failures/reasons").shape:
        raise DamagedFile("/failures/keys and /failures/reasons differ in length")


def _check_attributes(file: h5py.File) -> None:
    if h5py.h5a.get_num_attrs(file.id) > len(ATTRIBUTES) + 8:
        raise DamagedFile("more attributes than the format has")
    for name in ATTRIBUTES:
        if not h5py.h5a.exists(file.id, name.encode()):
            raise DamagedFile(f"not a {FORMAT} file, or one that another program has rewritten and left out its user "
                              f"block: the attribute {name!r} is missing")
        attribute = h5py.h5a.open(file.id, name.encode())
        kind = attribute.get_type().get_class()
        if kind not in (h5py.h5t.STRING, h5py.h5t.INTEGER) or attribute.shape != ():
            raise DamagedFile(f"the attribute {name!r} is neither one text nor one whole number")
        if attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
            raise DamagedFile(f"the attribute {name!r} is absurdly long")


def _check_members(group: h5py.Group, names: set[str], optional: frozenset[str]) -> None:
    if group.id.get_num_objs() > len(names | optional):
        raise DamagedFile(f"{group.name} holds more than the format lists")
    members = set(group.keys())
    if missing := names - members:
        raise DamagedFile(f"{group.name} lacks {sorted(missing)}")
    if surplus := members - names - optional:
        raise DamagedFile(f"{group.name} holds {sorted(surplus)}, which the format does not list")
    for name in members:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DamagedFile(f"{str(group.name).rstrip('/')}/{name} is a link to elsewhere: refused")


def _check_classifier(file: h5py.File, dim: int) -> None:
    group = _group(file, "classifier")
    _check_members(group, {"weight", "bias"}, frozenset(TAUGHT))
    for name, width in TAUGHT.items():
        if name in group:
            digests = _dataset(group, name)
            if not digests.id.get_type().equal(h5py.h5t.STD_U8LE) or digests.shape[1:] != (width,):
                raise DamagedFile(f"{digests.name} is not rows of {width} bytes")
    for name in ("weight", "bias"):
        numbers = _dataset(group, name)
        if not numbers.id.get_type().equal(FEATURE_TYPES["float32"]) or not np.isnan(numbers.fillvalue):
            raise DamagedFile(f"{numbers.name} is not float32 (little-endian), lost chunks marked as not a number")
    weight, bias = _dataset(group, "weight").shape, _dataset(group, "bias").shape
    if len(bias) != 1 or weight != (dim, *bias) or not 0 < bias[0] <= MAX_DIM:
        raise DamagedFile(f"/classifier is {weight} and {bias} for {dim} features")


def _group(file: h5py.File, name: str) -> h5py.Group:
    group = file[name]
    if not isinstance(group, h5py.Group):
        raise DamagedFile(f"/{name} is not a group")
    return group


def _dataset(place: h5py.Group, name: str) -> h5py.Dataset:
    """What is stored under that name, in chunks as the format has them."""
    dataset = place[name]
    if not isinstance(dataset, h5py.Dataset):
        raise DamagedFile(f"{str(place.name).rstrip('/')}/{name} is not a dataset")
    _check_storage(dataset)
    return dataset


def _check_numbers(file: h5py.File, name: str) -> tuple[int, int]:
    """The shape of rows of numbers."""
    dataset = _dataset(file, name)
    kind = dataset.id.get_type()
    if not any(kind.equal(other) for other in FEATURE_TYPES.values()):
        raise DamagedFile(f"/{name} holds neither float16 nor float32 (little-endian)")
    if len(dataset.shape) != 2 or not 0 < dataset.shape[1] <= MAX_DIM:
        raise DamagedFile(f"/{name} has shape {dataset.shape}, not rows of 1 to {MAX_DIM} numbers")
    if not np.isnan(dataset.fillvalue):
        raise DamagedFile(f"/{name} does not mark lost chunks as not a number")
    return dataset.shape


def _check_texts(file: h5py.File, name: str) -> tuple[int, ...]:
    """The shape of a list of texts."""
    dataset = _dataset(file, name)
    kind = dataset.id.get_type()
    if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str() or len(dataset.shape) != 1:
        raise DamagedFile(f"/{name} is not a list of fixed-length texts")
    if kind.get_size() > MAX_TEXT_BYTES:
        raise DamagedFile(f"/{name} holds texts of {kind.get_size()} bytes; {MAX_TEXT_BYTES} is the most")
    return dataset.shape


def _check_storage(dataset: h5py.Dataset) -> None:
    """Plain chunks, each with its checksum, all in this file, none missing, doubled or out of order."""
    plist, file, name = dataset.id.get_create_plist(), dataset.file, dataset.name
    if plist.get_layout() != h5py.h5d.CHUNKED or dataset.is_virtual or plist.get_external_count():
        raise DamagedFile(f"{name} is not stored in chunks inside the file: refused")
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if filters != [h5py.h5z.FILTER_FLETCHER32]:
        raise DamagedFile(f"{name} is not stored with just the fletcher32 checksum: refused")
    chunk_shape = (CHUNK_ROWS, *dataset.shape[1:])
    if dataset.chunks != chunk_shape:
        raise DamagedFile(f"{name} is not cut into chunks of {CHUNK_ROWS} whole rows: refused")
    size = os.fstat(file.id.get_vfd_handle()).st_size if file.driver == "sec2" else file.id.get_filesize()
    chunk_bytes = dataset.id.get_type().get_size() * math.prod(chunk_shape)
    expected = -(-dataset.shape[0] // CHUNK_ROWS)
    if expected * chunk_bytes > size:
        raise DamagedFile(f"{name} claims {dataset.shape} values, more than the file of {size} bytes can hold")
    if dataset.id.get_num_chunks() != expected:
        raise DamagedFile(f"{name} has {dataset.id.get_num_chunks()} of its {expected} chunks")
    chunks: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(chunks.append)
    chunks.sort(key=lambda chunk: chunk.chunk_offset)
    end = 0
    for index, chunk in enumerate(chunks):
        place = (index * CHUNK_ROWS, *(0 for _ in dataset.shape[1:]))
        if chunk.chunk_offset != place or chunk.filter_mask or chunk.size != chunk_bytes + 4:
            raise DamagedFile(f"{name}: chunk {index} is not what the format stores")
        if chunk.byte_offset < end or chunk.byte_offset + chunk.size > size:
            raise DamagedFile(f"{name}: chunk {index} lies outside the file or over another chunk")
        end = chunk.byte_offset + chunk.size

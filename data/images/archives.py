"""Archives of images (.zip, .tar) read in place: indexed once, then any member is one read away.

An archive is untrusted: names that leave it are not listed, the sizes that it declares bound what is read, and a
member that is encrypted, listed twice or compressed in an unsupported way is a failure with a reason.
"""

import io
import os
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol

from twofold.data.images.decode import MAX_FILE_BYTES, ImageError
from twofold.data.images.gzip_stream import GzipStream
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import key_fault

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
PACKED = re.compile(r"(.+?\.(?:zip|tar|tar\.gz|tgz))/(.+)", re.IGNORECASE)  #: a key of a file in an archive in the root
OTHER_SUFFIXES = (".tar.bz2", ".tar.xz", ".tar.zst", ".rar", ".7z")
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  #: before each member of a zip file (APPNOTE.TXT 4.3.7)
ENCRYPTED, TWICE = "encrypted in its archive", "there twice in its archive"


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in its archive; `method` is a zip file's compression, `crc` of its contents (-1: none)."""

    offset: int
    packed: int  #: bytes in the archive
    size: int
    method: int = zipfile.ZIP_STORED
    crc: int = -1
    fault: str = ""  #: why it cannot be read


class Bytes(Protocol):
    """What members are read from: a file, or what a compressed file holds."""

    def read_at(self, offset: int, size: int) -> bytes: ...


@dataclass
class Archive:
    """An archive by its path. It opens when it is first read, in each process anew; threads may share it."""

    path: Path
    _opened: "tuple[dict[str, Member], Bytes] | None" = field(default=None, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _process: int = field(default=0, repr=False, compare=False)

    def __reduce__(self) -> tuple:
        return Archive, (self.path,)

    @property
    def members(self) -> dict[str, Member]:
        """Every file in it that has a safe name, in the archive's order. Raises InputError if it is no archive."""
        return self._open()[0]

    @cached_property
    def folders(self) -> dict[str, set[str]]:
        """Folder ("" for the top) to the names in it."""
        folders: dict[str, set[str]] = {"": set()}
        for key in self.members:
            path = key
            while path:
                folder, _, name = path.rpartition("/")
                names = folders.setdefault(folder, set())
                if name in names:
                    break
                names.add(name)
                path = folder
        return folders

    def read(self, name: str) -> bytes:
        """The contents of a member. Raises ImageError if there is no such member, or it cannot be read."""
        members, source = self._open()
        member = members.get(name)
        if member is None:
            raise ImageError("missing file")
        if member.fault:
            raise ImageError(member.fault)
        if member.size > MAX_FILE_BYTES:
            raise ImageError(f"file larger than {MAX_FILE_BYTES >> 20} MB")
        try:
            return _contents(member, source)
        except (OSError, zlib.error, struct.error) as error:
            raise ImageError(f"damaged in its archive ({error})") from None

    def _open(self) -> "tuple[dict[str, Member], Bytes]":
        with self._lock:
            if self._opened is None or self._process != os.getpid():  # a fork shares the file's position: open anew
                self._opened, self._process = _indexed(self.path), os.getpid()
            return self._opened


def is_archive(path: Path) -> bool:
    """By its name. Raises InputError for a kind of archive that members cannot be read from."""
    name = path.name.lower()
    if name.endswith(OTHER_SUFFIXES) and path.is_file():
        raise InputError(f"{path}: archives are read as {', '.join(SUFFIXES)}: unpack it, or pack it as one of these")
    return name.endswith(SUFFIXES) and path.is_file()


@dataclass(frozen=True)
class PlainFile:
    """A file read at any place by any number of threads."""

    descriptor: int

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self) -> None:
        os.close(self.descriptor)


def _indexed(path: Path) -> "tuple[dict[str, Member], Bytes]":
    try:
        if path.name.lower().endswith(".zip"):
            source: Bytes = PlainFile(os.open(path, os.O_RDONLY))
            with zipfile.ZipFile(path) as file:
                listed = [(info.filename, _zip_member(info)) for info in file.infolist() if not info.is_dir()]
        else:
            source = GzipStream(path) if path.name.lower().endswith("gz") else PlainFile(os.open(path, os.O_RDONLY))
            with path.open("rb") if isinstance(source, PlainFile) else source.open() as file:
                listed = list(_tar_members(file))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError,
            struct.error) as error:
        raise InputError(f"{path}: not an archive that can be read ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    members: dict[str, Member] = {}
    for name, member in listed:
        name = name.replace("\\", "/").removeprefix("./")
        if not key_fault(name):
            members[name] = Member(0, 0, 0, fault=TWICE) if name in members else member
    if not members:
        raise InputError(f"{path}: no files in it")
    if all(member.fault == ENCRYPTED for member in members.values()):
        raise InputError(f"{path}: its members are encrypted: unpack it with its password")
    return members, source


def _zip_member(info: zipfile.ZipInfo) -> Member:
    fault = ENCRYPTED if info.flag_bits & 1 else ""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = fault or f"compressed in another way than .zip files mostly are (method {info.compress_type})"
    return Member(info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC, fault)


def _tar_members(file: io.BufferedReader) -> Iterator[tuple[str, Member]]:
    """Regular files, and hard links to them; symbolic links could name anything."""
    files: dict[str, Member] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.isreg():
                fault = "sparse in its archive" if info.sparse is not None else ""
                files[info.name] = Member(info.offset_data, info.size, info.size, fault=fault)
            if info.isreg() or (info.islnk() and info.linkname in files):
                yield info.name, files[info.name if info.isreg() else info.linkname]
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (half a million would be kept)


def _contents(member: Member, source: Bytes) -> bytes:
    offset = member.offset
    if member.crc >= 0:
        header = LOCAL_HEADER.unpack(source.read_at(offset, LOCAL_HEADER.size))
        if header[0] != b"PK\3\4":
            raise ImageError("damaged in its archive (no header)")
        offset += LOCAL_HEADER.size + header[-2] + header[-1]
    packed = source.read_at(offset, min(member.packed, MAX_FILE_BYTES + 1))
    content = packed
    if member.method == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
    if len(content) != member.size or (member.crc >= 0 and zlib.crc32(content) != member.crc):
        raise ImageError("damaged in its archive (not what its index says)")
    return content




@dataclass(frozen=True, order=True)
class ArchivePath:
    """`inner` is the path below the archive's top, which is "."."""

    inner: PurePosixPath
    archive: Archive = field(compare=False)

    def __truediv__(self, name: str) -> "ArchivePath":
        return ArchivePath(self.inner / name, self.archive)

    def __str__(self) -> str:
        return str(PurePosixPath(self.archive.path.as_posix()) / self.inner)

    @property
    def key(self) -> str:
        """As the archive names it; empty for its top."""
        return "" if self.inner == PurePosixPath(".") else self.inner.as_posix()

    @property
    def name(self) -> str:
        return self.inner.name or self.archive.path.name

    @property
    def parent(self) -> "ArchivePath":
        return ArchivePath(self.inner.parent, self.archive)

    def resolve(self) -> "ArchivePath":
        return self

    def is_dir(self) -> bool:
        return self.key in self.archive.folders

    def is_file(self) -> bool:
        return self.key in self.archive.members

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ArchivePath"]:
        """What lies in this folder, sorted. Raises FileNotFoundError if there is none."""
        if not self.is_dir():
            raise FileNotFoundError(str(self))
        return iter([self / name for name in sorted(self.archive.folders[self.key])])

    def rglob(self, _everything: str) -> Iterator["ArchivePath"]:
        """Every file below this folder; the one pattern is `*`."""
        keys, start = self.archive.members, f"{self.key}/" if self.key else ""
        return (ArchivePath(PurePosixPath(key), self.archive) for key in keys if key.startswith(start))

    def read_bytes(self) -> bytes:
        """The file's contents. Raises OSError."""
        try:
            return self.archive.read(self.key)
        except ImageError as error:
            raise OSError(0, str(error), str(self)) from None

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)


Place = Path | ArchivePath  #: a dataset's root: its folder, or a place in its archive


def below(place: Place, root: Place) -> PurePath:
    """The path from a root to a place below it."""
    return PurePath(str(place)).relative_to(str(root))

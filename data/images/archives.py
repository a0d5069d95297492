"""Archives of images (.zip, .tar) read in place: indexed once, then any member is one read away.

An archive is untrusted: names that leave it are not listed, and the sizes that it declares bound what is read.
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
from pathlib import Path, PurePath

from twofold.data.images.formats import HEAD_BYTES
from twofold.data.images.limits import MAX_FILE_BYTES, ImageError
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import key_fault

SUFFIXES = (".zip", ".tar")
OTHER_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".rar", ".7z")
IN_ARCHIVE = re.compile(r"(.+?\.(?:zip|tar))/(.+)", re.IGNORECASE)  #: a key of a file in an archive in the root
MAX_HEADER_BYTES = 1 << 20  #: of one header of a tar file; what it declares is read at once
ENCRYPTED, DUPLICATE = "encrypted in its archive", "there twice in its archive"
ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive. fault: why it cannot be read; size: of its contents; offset: of those in a tar file, of the
    header in a zip file, to which `info` belongs."""

    fault: str = ""
    size: int = 0
    offset: int = 0
    info: zipfile.ZipInfo | None = None


@dataclass
class Archive:
    """An archive by its path, indexed when it is first read. Threads and forked processes may share it."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __reduce__(self) -> tuple:
        return Archive, (self.path,)

    @property
    def members(self) -> dict[str, Member]:
        """Every file in it that has a safe name, in the archive's order. Raises InputError if it is no archive."""
        with self._lock:
            return self._members

    @cached_property
    def _members(self) -> dict[str, Member]:
        try:
            listed = list(_zip_members(self.path) if self.path.name.lower().endswith(".zip")
                          else _tar_members(self.path))
        except ERRORS as error:
            raise InputError(f"{self.path}: not an archive that can be read ({error})") from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        members: dict[str, Member] = {}
        for name, member in listed:
            name = name.replace("\\", "/").removeprefix("./")
            if not key_fault(name):
                members[name] = Member(DUPLICATE) if name in members else member
        if not members:
            raise InputError(f"{self.path}: no files in it")
        if all(member.fault == ENCRYPTED for member in members.values()):
            raise InputError(f"{self.path}: its members are encrypted: unpack it with its password")
        return members

    @cached_property
    def folders(self) -> dict[str, set[str]]:
        """Folder ("" for the top) to the names in it."""
        folders: dict[str, set[str]] = {"": set()}
        for path in self.members:
            while path:
                folder, _, name = path.rpartition("/")
                folders.setdefault(folder, set()).add(name)
                path = folder
        return folders

    @cached_property
    def _file(self) -> io.FileIO:
        return io.FileIO(self.path)

    def read(self, name: str) -> bytes:
        """The contents of a member. Raises ImageError if there is no such member, or it cannot be read."""
        member = self.members.get(name, Member("missing file"))
        if member.fault:
            raise ImageError(member.fault)
        stored = member.info.compress_size if member.info else member.size
        if max(member.size, stored) > MAX_FILE_BYTES:
            raise ImageError(f"file larger than {MAX_FILE_BYTES >> 20} MB")
        try:
            file, start = self._file.fileno(), member.offset
            if member.info:  # the header's length is written in it
                start += 30 + sum(struct.unpack("<26x2H", os.pread(file, 30, start)))
            content = os.pread(file, stored, start)
            if member.info and member.info.compress_type == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
        except (OSError, *ERRORS):
            content = b""
        if len(content) != member.size or (member.info and zlib.crc32(content) != member.info.CRC):
            raise ImageError("damaged in its archive")
        return content


def is_archive(path: Path) -> bool:
    """True for a file with an archive's suffix. Raises InputError for a kind whose members cannot be read in place."""
    name = path.name.lower()
    if name.endswith(OTHER_SUFFIXES) and path.is_file():
        raise InputError(f"{path}: only {' and '.join(SUFFIXES)} are read in place: unpack it, or repack it as .zip")
    return name.endswith(SUFFIXES) and path.is_file()


def _zip_members(path: Path) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            readable = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            fault = "" if readable else f"compressed in an unsupported way (method {info.compress_type})"
            if not info.is_dir():
                yield info.filename, Member(ENCRYPTED if info.flag_bits & 1 else fault, info.file_size,
                                            info.header_offset, info)


class _HeaderReader(io.BufferedReader):
    """A tar file whose headers are read; what a member holds is skipped."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES >> 10} KB")
        return super().read(size)


def _tar_members(path: Path) -> Iterator[tuple[str, Member]]:
    """Regular files, and hard links to them; symbolic links could name anything."""
    files: dict[str, Member] = {}
    with _HeaderReader(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.size < 0:  # the next header would be this one, for ever
                raise tarfile.ReadError("a member of negative size")
            if info.isreg():
                files[info.name] = Member("sparse in its archive" if info.sparse is not None else "", info.size,
                                          info.offset_data)
            if info.isreg() or (info.islnk() and info.linkname in files):
                yield info.name, files[info.name if info.isreg() else info.linkname]
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (half a million would be kept)


@dataclass(frozen=True)
class ArchivePath:
    """A path inside an archive, with as much of `pathlib.Path` as the readers of datasets use. key: the name there."""

    archive: Archive
    key: str = ""

    def __truediv__(self, name: str) -> "ArchivePath":
        return ArchivePath(self.archive, "/".join(filter(None, (self.key, name))))

    def __str__(self) -> str:
        return f"{self.archive.path.as_posix()}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.archive.path.name

    @property
    def parent(self) -> "ArchivePath":
        return ArchivePath(self.archive, self.key.rpartition("/")[0])

    def resolve(self) -> "ArchivePath":
        return self

    def is_dir(self) -> bool:
        return self.key in self.archive.folders

    def is_file(self) -> bool:
        return self.key in self.archive.members

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ArchivePath"]:
        """The entries of this folder, sorted. Raises FileNotFoundError if there is none."""
        if not self.is_dir():
            raise FileNotFoundError(str(self))
        return iter([self / name for name in sorted(self.archive.folders[self.key])])

    def rglob(self, _everything: str) -> Iterator["ArchivePath"]:
        """Every file below this folder; the one pattern is `*`."""
        start = f"{self.key}/" if self.key else ""
        return (ArchivePath(self.archive, key) for key in self.archive.members if key.startswith(start))

    def read_bytes(self) -> bytes:
        """The contents of the file. Raises OSError."""
        try:
            return self.archive.read(self.key)
        except ImageError as error:
            raise OSError(0, str(error), str(self)) from None

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)


Place = Path | ArchivePath  #: a dataset's root: its folder, or a folder in its archive


def read_head(place: Place) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        if isinstance(place, ArchivePath):
            return place.read_bytes()[:HEAD_BYTES]
        with place.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def relative_path(place: Place, root: Place) -> PurePath:
    """The path from a root to a place below it."""
    return PurePath(str(place)).relative_to(str(root))

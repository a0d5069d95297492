"""Weights, the hub, and whether a store's file system keeps what it promises."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from twofold.data.utils.errors import InputError
from twofold.extract.doctor.diagnosis import Check
from twofold.extract.encoders.presets import PRESETS
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.weights.find import how_to_get, in_folder, weights_folder

NETWORKED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs"}
TRY_LOCK = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(timeout=0)"


def check_weights() -> list[Check]:
    """Each preset's file, loaded strictly where it is there."""
    folder = weights_folder()
    return [_weights_of(preset.name, folder) for preset in PRESETS]


def _weights_of(name: str, folder: Path) -> Check:
    topic = f"Weights in {folder}"
    try:
        path = in_folder(name, folder)
        if path is None:
            return Check(topic, name, "absent", "no file", how_to_get(name, folder))
        encoder = load_encoder(name, weights=str(path), device="cpu", precision="fp32")
    except InputError as error:
        return Check(topic, name, "broken", str(error), how_to_get(name, folder))
    return Check(topic, name, "ok", f"{path.name} loads strictly, {encoder.dim}-d, {encoder.weights[:23]}")


def check_hub() -> Check:
    """Whether published weights can be fetched."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return Check("Hub", str(host.hostname), "absent", "HF_HUB_OFFLINE is set: only what is cached is used")
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
    except OSError as error:
        return Check("Hub", str(host.hostname), "absent", f"offline ({error})",
                     "fetch weights on another machine and put them into the weights folder")
    return Check("Hub", str(host.hostname), "ok", "reachable")


def check_file_system(store: Path) -> list[Check]:
    """Whether locks exclude another process and a rename replaces a file, where the store is or will be."""
    topic = f"Store {store}"
    folder = next(place for place in (store, *store.absolute().parents) if place.is_dir())
    kind = file_system(folder)
    remote = kind in NETWORKED
    where = "shared over a network" if remote else "local"
    checks = [Check(topic, "file system", "ok", f"{kind or 'unknown'}, {where}")]
    if not os.access(folder, os.W_OK):
        return [*checks, Check(topic, "writing", "absent", f"{folder} is read-only: enough to read a store")]
    with tempfile.TemporaryDirectory(prefix=".tmp-doctor-", dir=folder) as place:
        return [*checks, _locks(topic, Path(place), remote), _renames(topic, Path(place))]


def _locks(topic: str, place: Path, remote: bool) -> Check:
    with FileLock(place / "lock"):
        second = subprocess.run([sys.executable, "-c", TRY_LOCK, str(place / "lock")], capture_output=True)
    if second.returncode == 0:
        return Check(topic, "locks", "broken", "two processes held one lock at once",
                     "let one process at a time write to a store here, or mount with locks (NFS 4, without nolock)")
    return Check(topic, "locks", "ok", "exclude a second process on this machine" + (
        "; whether they exclude other machines depends on the server" if remote else ""))


def _renames(topic: str, place: Path) -> Check:
    (place / "old").write_text("old")
    (place / "new").write_text("new")
    os.replace(place / "new", place / "old")
    whole = (place / "old").read_text() == "new" and not (place / "new").exists()
    return Check(topic, "rename", "ok" if whole else "broken", "replaces a file in one step" if whole else
                 "did not replace the file", "" if whole else "keep stores on another file system")


def file_system(folder: Path) -> str:
    """The kind of file system below a folder (ext4, nfs4, ...); empty on systems that do not say."""
    try:
        with open("/proc/mounts", encoding="utf-8") as lines:
            mounts = [line.split()[1:3] for line in lines]
    except OSError:
        return ""
    place = str(folder.resolve())
    here = [(len(point), kind) for point, kind in mounts if place == point or place.startswith(point.rstrip("/") + "/")]
    return max(here, default=(0, ""))[1]

"""Files over SSH: fsspec's SFTP, but strangers are refused, `~/.ssh/config` counts, and reading does not wait."""

import logging
import socket
from pathlib import Path
from typing import Any

from fsspec.implementations.sftp import SFTPFileSystem, paramiko

from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.failures import TIMEOUT, Address, asking

SYSTEM_HOSTS = Path("/etc/ssh/ssh_known_hosts")
CONFIG_VERBS = {"hostname": "host", "user": "username", "port": "port", "identityfile": "key_filename"}


class Sftp(SFTPFileSystem):
    """SFTP to hosts whose key is in `known_hosts`; fsspec's own takes any key from anybody.

    Of `~/.ssh/config` HostName, User, Port and IdentityFile are followed; jump hosts and proxy commands are not.
    """

    def _connect(self) -> None:
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises anyway
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        if SYSTEM_HOSTS.exists():
            self.client.load_system_host_keys(str(SYSTEM_HOSTS))
        self.client.set_missing_host_key_policy(_RefuseStrangers())
        self.client.connect(self.host, timeout=TIMEOUT, **self.ssh_kwargs)
        transport = self.client.get_transport()
        assert transport and isinstance(transport.sock, socket.socket)
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # many small requests
        self.ftp = self.client.open_sftp()
        if channel := self.ftp.get_channel():
            channel.settimeout(TIMEOUT)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:  # type: ignore[override]
        file = super()._open(path, mode, **kwargs)
        if mode == "rb":
            return _Ahead(file)
        file.set_pipelined(True)
        return file


class _RefuseStrangers(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise CacheError(f"{hostname} is not in ~/.ssh/known_hosts (its key is {key.get_name()} {key.fingerprint}): "
                         "connect to it once with `ssh`, which asks whether that is its key")


class _Ahead:
    """A remote file whose reads are asked for in many small requests at once, rather than one after the other."""

    def __init__(self, file: paramiko.SFTPFile):
        self.file, self.place, self.size = file, 0, file.stat().st_size or 0

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, place: int) -> None:
        self.place = place

    def read(self, count: int) -> bytes:
        count = min(count, self.size - self.place)
        data = b"".join(self.file.readv([(self.place, count)])) if count > 0 else b""
        self.place += len(data)
        return data


def connect(address: Address) -> Sftp:
    """Log in, by a password in the URL, an agent or a key file. Raises CacheError or TransferError."""
    host = address.parts.hostname
    if not host or not address.parts.path.strip("/"):
        raise CacheError(f"{address.shown}: say which folder of which host, as ssh://user@host/path/of/the/folder")
    from_url = {"username": address.user, "password": address.password, "port": address.parts.port}
    options = {"host": host, **_from_config(host), **{name: value for name, value in from_url.items() if value}}
    with asking(address):
        try:
            return Sftp(**options, skip_instance_cache=True)
        except paramiko.BadHostKeyException as error:
            raise CacheError(f"{address.shown}: the key of {error.hostname} is not the one in known_hosts: it was set "
                             "up anew, or somebody is in between (`ssh-keygen -R` forgets the old key)") from None
        except paramiko.ssh_exception.NoValidConnectionsError:  # type: ignore[attr-defined]
            raise TransferError(f"{address.shown}: nothing answers there (connection refused)") from None
        except paramiko.PasswordRequiredException:
            raise CacheError(f"{address.shown}: the key file has a passphrase: give it to ssh-agent first "
                             "(`ssh-add`)") from None
        except paramiko.AuthenticationException:
            raise CacheError(f"{address.shown}: the login is refused: it needs a key of ~/.ssh or of ssh-agent that "
                             "the host accepts, as `ssh` does") from None
        except paramiko.SSHException as error:
            if "No authentication methods" in str(error):
                raise CacheError(f"{address.shown}: no key to log in with: make one with `ssh-keygen`, or start "
                                 "ssh-agent") from None
            raise TransferError(f"{address.shown}: it does not answer as an SSH server does ({error})") from None


def _from_config(host: str) -> dict[str, object]:
    path = Path.home() / ".ssh" / "config"
    if not path.exists():
        return {}
    config = paramiko.SSHConfig.from_path(str(path)).lookup(host)
    options: dict[str, object] = {ours: config[theirs] for theirs, ours in CONFIG_VERBS.items() if theirs in config}
    return options | ({"port": int(config["port"])} if "port" in config else {})

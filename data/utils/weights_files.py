"""Files of weights: in the one folder where encoders and detector are looked for, or on the Hugging Face hub."""

import logging
import os
import socket
import urllib.parse
import urllib.request
from pathlib import Path

log = logging.getLogger(__name__)
HUB_REASONS = {  # by the names of classes of the hub client's errors, which need not be installed; subclasses first
    "LocalEntryNotFoundError": "the hub cannot be reached, and its cache on this machine does not have the file",
    "GatedRepoError": "it is gated: accept its conditions on its page, and log in with `hf auth login`",
    "RepositoryNotFoundError": "there is no such repository on the hub, or it is private",
    "EntryNotFoundError": "the repository has no such file"}


def weights_folder() -> Path:
    """The folder that weights are looked for in: TWOFOLD_WEIGHTS, else `weights/` where the command runs."""
    return Path(os.environ.get("TWOFOLD_WEIGHTS") or "weights")


def hub_cached(repository: str, file: str) -> Path | None:
    """The file in the hub's cache on this machine; None if it is not there, or published on no hub (an empty name)."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    path = try_to_load_from_cache(repository, file) if repository else None
    return Path(path) if isinstance(path, str) else None


def hub_file(repository: str, file: str) -> Path:
    """The file in the hub's cache, downloaded if it is not there. Honours HF_HUB_OFFLINE and HF_ENDPOINT.

    Raises FileNotFoundError with a reason where the hub does not give it, else whatever the network and proxy do.
    """
    if cached := hub_cached(repository, file):
        return cached
    from huggingface_hub import constants, hf_hub_download

    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    if not constants.HF_HUB_OFFLINE and not urllib.request.getproxies():
        port = hub.port or (80 if hub.scheme == "http" else 443)
        with socket.create_connection((hub.hostname or "", port), timeout=10):  # its client would try for minutes
            log.info("downloading %s of %s", file, repository)
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        if reason := next((HUB_REASONS[name] for name in names if name in HUB_REASONS), ""):
            raise FileNotFoundError(f"{repository}, {file}: {reason}") from None
        raise

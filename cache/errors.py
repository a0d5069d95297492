"""Errors of stores and feature files; each message is one sentence for the user."""


class CacheError(ValueError):
    """A store or feature file that cannot be used: what is wrong, with which file, and what to do."""

    exit_code = 2


class FileGone(CacheError):
    """Another process has removed or replaced this feature file since it was first read: read it again."""


class DamagedFile(CacheError):
    """A feature file that is cut off, altered or of another kind: its values must not be used."""


class TransferError(CacheError):
    """A remote place that did not answer, or a transfer that broke off: the same command may succeed later."""

    exit_code = 1

"""What goes wrong with stores and feature files, as a person reads it."""


class CacheError(ValueError):
    """A store or feature file that cannot be used: one sentence that says what, which file, and what to do."""

    exit_code = 2


class FileGone(CacheError):
    """A feature file that another process has removed or replaced since it was first looked at: look again."""


class DamagedFile(CacheError):
    """A feature file that is cut off, altered or was never one: its values must not be used."""


class TransferError(CacheError):
    """Another place that did not answer, or a transfer that broke off: the same command may succeed later."""

    exit_code = 1

"""Whether features fit into memory."""

from fuse.features import FusedFeatures

COPIES = 2.5  #: the joined matrix, the standardised training rows of the widest head, and what is passing through


def fits(features: FusedFeatures, limit_gb: float) -> bool:
    """True if all features may be held as float32 in `limit_gb` gigabytes; 0 means half of the memory that is free."""
    limit = limit_gb * 1e9 if limit_gb else 0.5 * available()
    return COPIES * 4 * len(features) * features.dim <= limit


def available() -> float:
    """Bytes of memory that are free or can be freed; on systems that do not say, 4 GB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4e9

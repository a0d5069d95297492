"""Read a store back and say of each file whether its values can be trusted."""

from dataclasses import asdict, dataclass
from pathlib import Path

from cache.errors import CacheError
from cache.featurefile import FeatureFile
from cache.store import PARTS, Store


@dataclass(frozen=True)
class Verdict:
    """One file: sound, or the first thing that is wrong with it."""

    file: str
    rows: int
    failed: int
    fault: str

    @property
    def sound(self) -> bool:
        return not self.fault


@dataclass(frozen=True)
class Verification:
    """The verdicts on a store; exit code 1 if any file is at fault."""

    store: Path
    verdicts: list[Verdict]

    @property
    def exit_code(self) -> int:
        return 0 if all(verdict.sound for verdict in self.verdicts) else 1

    def record(self) -> dict:
        files = [asdict(verdict) | {"sound": verdict.sound} for verdict in self.verdicts]
        return {"store": str(self.store), "files": files}

    def text(self) -> str:
        if not self.verdicts:
            return f"{self.store}: no feature files"
        return "\n".join(
            f"sound    {verdict.file}  {verdict.rows} faces, {verdict.failed} failed" if verdict.sound
            else f"AT FAULT {verdict.file}  {verdict.fault}"
            for verdict in self.verdicts)


def verify(path: Path) -> Verification:
    """Check structure, checksums, recipe against fingerprint, duplicate keys and finiteness of every file and part.

    path: a store or one feature file. Raises CacheError if it is neither.
    """
    if path.is_file():
        return Verification(path, [_verdict(FeatureFile(path), path.parent)])
    store = Store(path)
    files = store.files() + [FeatureFile(part) for part in sorted(store.path.glob(f"{PARTS}/*/*.h5"))]
    return Verification(path, [_verdict(file, store.path) for file in files])


def _verdict(file: FeatureFile, base: Path) -> Verdict:
    name = str(file.path.relative_to(base))
    try:
        file.check()
        return Verdict(name, file.rows, file.failed, "")
    except CacheError as error:
        return Verdict(name, 0, 0, str(error))

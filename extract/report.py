"""The report of an extraction or a dry run, as text and as JSON."""

import signal
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import retired_rows
from twofold.cache.store import Store
from twofold.data.utils.keys import NO_FACE
from twofold.extract.engine.progress import RunStats
from twofold.extract.engine.task import ComputeTask
from twofold.extract.plan import FilePlan

LISTED = 20  #: failed samples that are named in the text; all are in the record


def file_report(store: Store, plan: FilePlan, file: FeatureFile | None, stats: RunStats, task: ComputeTask
                ) -> dict[str, Any]:
    """Return what a report says of one file: cached + computed + failed + no_face + left are all samples.

    file: the finished one, or None. left: samples that no process has computed yet; to_compute, shards and bytes: what
    the task adds; retired: rows kept of samples no longer in the manifest; failures: key to reason.
    """
    recipe, samples, to_compute = plan.recipe, len(plan.missing), int(plan.missing.sum())
    dim = plan.dim or (file.dim if file else 0)
    computed = stats.rows[recipe.fingerprint]
    failures = file.failures if file else plan.failures | stats.failures.get(recipe.fingerprint, {})
    cached = file.rows - computed if file else int(plan.cached.sum())
    no_face = sum(reason == NO_FACE for reason in failures.values())
    return {
        "backbone": recipe.backbone, "view": recipe.view["name"], "fingerprint": recipe.fingerprint, "dim": dim,
        "precision": recipe.precision, "untrained": recipe.untrained, "cached": cached, "computed": computed,
        "failed": len(failures) - no_face, "no_face": no_face, "left": samples - cached - computed - len(failures),
        "to_compute": to_compute, "shards": -(-to_compute // task.rows_per_shard),
        "bytes": to_compute * dim * np.dtype(recipe.dtype).itemsize, "retired": retired_rows(store, recipe),
        "file": file.path.name if file else "", "failures": failures}


@dataclass(frozen=True)
class Extraction:
    """The result of `extract`: a line for each file, then samples, failures, speed and where the time went.

    files: as of `file_report`; stats: None for a dry run; expected_seconds: of a dry run.
    """

    store: Path
    samples: int
    files: list[dict[str, Any]]
    stats: RunStats | None
    expected_seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0, 1 where samples failed, or 128 plus the signal that ended the run early."""
        if self.stats is None:
            return 0
        if self.stats.stopped_by:
            return 128 + self.stats.stopped_by
        return 1 if any(file["failed"] for file in self.files) else 0

    @property
    def failed_samples(self) -> dict[str, str]:
        """Key to reason, of all samples that failed for any file, in this run or earlier."""
        return {key: reason for file in self.files for key, reason in file["failures"].items() if reason != NO_FACE}

    def record(self) -> dict[str, Any]:
        stats = self.stats or RunStats()
        return {
            "store": str(self.store), "samples": self.samples, "files": self.files,
            "computed_samples": stats.samples, "computed_rows": sum(stats.rows.values()),
            "failures": dict(Counter(self.failed_samples.values())), "failed_samples": self.failed_samples,
            "seconds": stats.seconds if self.stats else {},
            "expected_seconds": self.expected_seconds, "stopped_by": stats.stopped_by,
        }

    def text(self) -> str:
        lines = [_line(file, dry=self.stats is None) for file in self.files]
        if self.stats is None:
            rows, shards, size = (sum(file[name] for file in self.files) for name in ("to_compute", "shards", "bytes"))
            hours = f", about {timedelta(seconds=round(self.expected_seconds))} on this machine"
            return "\n".join([*lines, f"dry run: {rows} rows to compute, {size / 1e6:.1f} MB in {shards} shards"
                                      f"{hours if self.expected_seconds else ''}; nothing was written"])
        failed, seconds = self.failed_samples, self.stats.seconds
        failures = [f"  {count:6} failed: {reason}" for reason, count in Counter(failed.values()).most_common()]
        failures += [f"  {key}: {reason}" for key, reason in list(failed.items())[:LISTED]]
        if len(failed) > LISTED:
            failures.append(f"  and {len(failed) - LISTED} more: `cache show {self.store} --failures`")
        if self.stats.stopped_by:
            lines += [*failures, f"stopped by {signal.Signals(self.stats.stopped_by).name}: what is computed is safe, "
                                 "the same command goes on"]
        elif not self.stats.samples:
            lines += [*failures, f"{self.samples} samples, nothing to compute: all of it is cached in {self.store}"]
        else:
            lines += [f"{self.samples} samples, {self.stats.samples} computed, {len(self.stats.failed_samples)} "
                      f"failures, {self.stats.samples / max(seconds['wall'], 1e-9):.1f} samples/s over "
                      f"{seconds['wall']:.1f} s", *failures,
                      f"seconds: decode {seconds['decode']:.1f} (in threads), forward {seconds['forward']:.1f}, "
                      f"write {seconds['write']:.1f}"]
        return "\n".join(lines)


def _line(file: dict[str, Any], *, dry: bool) -> str:
    parts = [(file["cached"], "cached"), (file["to_compute"], "to compute") if dry else (file["computed"], "computed")]
    parts += [(file[name], text) for name, text in (
        ("failed", "failed"), ("no_face", "without a face"), ("left", "left for other shards or a later run"),
        ("retired", "kept of samples no longer in the manifest")) if file[name] and not (dry and name == "left")]
    untrained = ", UNTRAINED" if file["untrained"] else ""
    return (f"{file['backbone']} ({file['view']}, {file['dim']}-d, {file['precision']}{untrained}): "
            + ", ".join(f"{count} {text}" for count, text in parts) + (f" -> {file['file']}" if file["file"] else ""))

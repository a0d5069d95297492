"""The verb `doctor`."""

from collections.abc import Sequence
from pathlib import Path

from twofold.extract.doctor.diagnosis import Diagnosis
from twofold.extract.doctor.files import check_file_system, check_hub, check_weights
from twofold.extract.doctor.machine import check_decoders, check_machine
from twofold.extract.doctor.packages import check_packages
from twofold.extract.doctor.work import check_work


def diagnose(*, store: Path, manifest: Path | None, backbones: Sequence[str]) -> Diagnosis:
    """Look at everything; of a manifest, also what extracting it with these backbones would take."""
    return Diagnosis([*check_packages(), *check_machine(), *check_decoders(), *check_weights(), check_hub(),
                      *check_file_system(store), *(check_work(manifest, backbones, store) if manifest else [])])

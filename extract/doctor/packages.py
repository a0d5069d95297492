"""Packages of this environment against the lower bounds that Twofold declares."""

import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import twofold
from twofold.extract.doctor.diagnosis import Check

TOPIC = "Python and packages"


def check_packages() -> list[Check]:
    """Python, every required package, and every optional one with the line that installs it."""
    version = ".".join(map(str, sys.version_info[:3]))
    python = Check(TOPIC, "python", "ok" if sys.version_info >= (3, 11) else "broken", version,
                   "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")
    return [python, *(_check(requirement, extra) for requirement, extra in declared())]


def declared() -> Iterator[tuple[Requirement, str]]:
    """Requirements, and the extra that asks for each or '' where none does: of the clone, else as installed."""
    root = Path(twofold.__file__).parent
    if (root / "pyproject.toml").is_file():
        for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                yield Requirement(line), ""
        with (root / "pyproject.toml").open("rb") as file:
            extras = tomllib.load(file)["project"]["optional-dependencies"]
        for extra, lines in extras.items():
            yield from ((Requirement(line), extra) for line in lines)
        return
    for line in metadata.requires("twofold") or []:
        requirement = Requirement(line)
        yield requirement, str(requirement.marker).partition("extra == ")[2].strip("\"'") if requirement.marker else ""


def _check(requirement: Requirement, extra: str) -> Check:
    install = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        text = f"not installed ({extra})" if extra else "not installed"
        return Check(TOPIC, requirement.name, "absent" if extra else "broken", text, install)
    if requirement.specifier.contains(version, prereleases=True):
        return Check(TOPIC, requirement.name, "ok", version)
    return Check(TOPIC, requirement.name, "broken", f"{version} is older than {requirement.specifier}", install)

"""What works on this machine, what does not, and what to do about it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "absent", "broken"]  #: absent: optional, or not needed until it is asked for


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. remedy: what to do, where it is not ok."""

    topic: str
    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks, by topic, in order."""

    checks: Sequence[Check]

    @property
    def exit_code(self) -> int:
        """1 if something is broken; what is merely absent is no fault."""
        return int(any(check.state == "broken" for check in self.checks))

    def record(self) -> dict[str, Any]:
        return {"broken": self.exit_code == 1, "checks": [asdict(check) for check in self.checks]}

    def text(self) -> str:
        lines: list[str] = []
        width = max(len(check.name) for check in self.checks)
        for topic in dict.fromkeys(check.topic for check in self.checks):
            lines += ["", topic] if lines else [topic]
            for check in self.checks:
                if check.topic == topic:
                    mark = {"ok": " ", "absent": "-", "broken": "!"}[check.state]
                    lines.append(f" {mark} {check.name:{width}}  {check.text}")
                    lines += [f"   {'':{width}}  -> {check.remedy}"] if check.remedy else []
        broken = [check.name for check in self.checks if check.state == "broken"]
        return "\n".join([*lines, "", f"to mend (!): {', '.join(broken)}" if broken else
                          "nothing is broken; what is absent (-) is only needed if you ask for it"])

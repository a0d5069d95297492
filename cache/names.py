"""Names of backbones as a person writes them: several between commas, NAME@FINGERPRINT to pick one of several files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneName:
    """`NAME`, or `NAME@FINGERPRINT` with any number of the fingerprint's first digits."""

    name: str
    digits: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.digits}" if self.digits else self.name

    def matches(self, backbone: str, fingerprint: str) -> bool:
        """True for a feature file of this backbone, and of this recipe where digits say which."""
        return backbone == self.name and fingerprint.startswith(self.digits)


def backbone_name(text: str) -> BackboneName:
    """Read `NAME` or `NAME@FINGERPRINT`."""
    name, _, digits = text.partition("@")
    return BackboneName(name, digits)


def names_in(text: str) -> list[str]:
    """Names between commas, in order, without blanks; the commas of `onnx:PATH?mean=0.5,0.5,0.5` part no names."""
    names: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if names and "?" in names[-1] and piece[0] in "-.0123456789":
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    return names

"""Names of backbones as a person writes them, several between commas."""


def names_in(text: str) -> list[str]:
    """Names between commas, in order, without blanks; the commas of `onnx:PATH?mean=0.5,0.5,0.5` part no names."""
    names: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if names and "?" in names[-1] and piece[0] in "-.0123456789":
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    return names

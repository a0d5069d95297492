"""What a key may be: a POSIX path below the root that every file of ours can carry."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

LONGEST = 4096  #: bytes in UTF-8: the longest path of most systems, and the longest text in a feature file
PLAIN = re.compile(r"(?:[\w-][\w.,;=+ -]*/)*[\w-][\w.,;=+ -]*", re.ASCII)  #: what nearly every key looks like
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  #: a line end in a key has moved a label to another face
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  #: with one letter it is a Windows drive
NO_FACE_SUFFIX = ".noface"  #: of keys that stand for a picture or a frame without a face: there is no image to read
NO_FACE = "no face"  #: why they have no features


def key_fault(key: str) -> str:
    """Why a text cannot be a key, with what to do; empty if it can."""
    if PLAIN.fullmatch(key) and len(key) <= LONGEST:
        return ""
    if not key:
        return "the key is empty"
    if CONTROL.search(key):
        return f"{key[:200]!r} has a line end or another control character in it: rename the file"
    if URL.match(key):
        return f"{key[:200]!r} is a URL: download the files, and name them by their paths below the root"
    if key.startswith("/") or "\\" in key or (len(key) > 1 and key[1] == ":"):
        return f"{key[:200]!r} is not a path relative to the root, with forward slashes"
    if ".." in key.split("/"):
        return f"{key[:200]!r} leaves the root"
    if any("\ud800" <= letter <= "\udfff" for letter in key):
        return f"{key[:200]!r} is not text in UTF-8: rename the file"
    if len(key.encode()) > LONGEST:
        return f"{key[:100]!r}... is longer than {LONGEST:,} bytes"
    if str(PurePosixPath(key)) != key:
        return f"{key!r} is not a plain path (write it as {str(PurePosixPath(key))!r})"
    return ""


def ambiguous_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """A sentence each on keys that some file systems (macOS, Windows) take for the same file."""
    forms: dict[str, str] = {}
    cases: dict[str, str] = {}
    same_form, same_case = [], []
    for key in keys:
        form = unicodedata.normalize("NFC", key)
        other, alike = forms.setdefault(form, key), cases.setdefault(form.casefold(), form)
        same_form += [(other, key)] if other != key else []
        same_case += [(alike, form)] if alike != form else []
    return tuple(f"{len(pairs):,} pairs of keys differ only by {what} (the first: {pairs[0][0]!r} and "
                 f"{pairs[0][1]!r}): on {where} they are one file" for what, where, pairs in (
                     ("the Unicode form of their letters", "macOS", same_form),
                     ("upper and lower case", "Windows and macOS", same_case)) if pairs)

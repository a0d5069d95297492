"""Fuzz one parser of foreign bytes, guided by coverage, until it fails or the time is over.

    pip install atheris                                    # Linux; wheels for some versions of Python only
    python tests/fuzz/fuzz.py                              # lists the targets
    python tests/fuzz/fuzz.py manifest -max_total_time=600 # further options are those of libFuzzer

More than 10 seconds or 1.5 GB for one input is a failure, too (torch alone takes a third of that). What fails is
written to the folder where the command runs, as crash-*, timeout-* or oom-*: `python tests/fuzz/fuzz.py TARGET FILE`
runs it again. Make a test of each and mend it.
"""

import importlib.util
import random
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("twofold", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["twofold"] = importlib.util.module_from_spec(spec)
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["twofold", "pickletools", "zipfile", "tomllib", "json"]):
    from tests.fuzz.mutate import mutated_json
    from tests.fuzz.targets import TARGETS, parses


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"choose a target: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    files = [word for word in sys.argv[1:] if not word.startswith("-")]
    corpus = tempfile.mkdtemp(prefix="twofold-corpus-")
    for number, seed in enumerate(target.seeds()):
        Path(corpus, str(number)).write_bytes(seed)

    def change(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        return mutated_json(data, dice)[:most] if dice.random() < 0.7 else atheris.Mutate(data, most)

    limits = ["-timeout=10", "-rss_limit_mb=1500", "-max_len=65536"]
    options = {"custom_mutator": change} if target.is_json else {}
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], *([] if files else [corpus])],
                  lambda data: parses(target, data) and None, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Freed memory is taken again instead of asked for anew: counted by the pages that the kernel hands out."""

import platform
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import resource
    import sys
    import numpy as np
    from twofold.extract.finetune.memory import keep_freed_memory

    def pages_of_a_step():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(10 * 2**20)  # 80 MB, freed at once
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    usual = [pages_of_a_step() for _ in range(3)][-1]
    assert keep_freed_memory()
    print(usual, [pages_of_a_step() for _ in range(3)][-1])
""")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told how to keep memory")
def test_a_second_step_touches_no_fresh_pages():
    done = subprocess.run([sys.executable, "-c", PROGRAM], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    usual, kept = map(int, done.stdout.split())
    assert usual > 30 and kept < usual / 10

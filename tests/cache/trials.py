"""Two real processes at work in one store at once, many times over, forced into no order.

    python -m tests.cache.trials --trials 1000 --seed 0 [--contest NAME ...]

One process has everything imported, and each contender is forked from it: a trial costs a fraction of a second.
Exits with 1 if a row or an update was lost, a stale one believed, or anything left behind.
"""

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.cache.contenders import CONTESTS, Job, Scene, faults, faults_of_push, tiny_encoder
from twofold.cache.errors import TransferError

MOST_DELAY = 0.03  #: seconds by which one may begin after the other; a job takes about as long
DONE, TOLD_TO_REPEAT, BROKE = 0, 1, 3  #: exit codes of contenders


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of each contest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contest", nargs="+", choices=CONTESTS, default=list(CONTESTS))
    parser.add_argument("--folder", type=Path, help="where to work; by default the temporary folder")
    chosen = parser.parse_args(words)
    encoder, lost = tiny_encoder(), 0
    for name in chosen.contest:
        began, outcomes = time.perf_counter(), Counter()
        for number in range(chosen.trials):
            with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
                wrong, repeats = trial(name, Scene(Path(folder), encoder), random.Random(f"{chosen.seed} {number}"))
            outcomes.update(trials=1, lost=bool(wrong), told_to_repeat=repeats)
            for fault in wrong:
                print(f"{name} {number} (seed {chosen.seed}): {fault}", flush=True)
        lost += outcomes["lost"]
        print(f"{name}: {outcomes['trials']} trials (seed {chosen.seed}), {outcomes['lost']} with something lost, "
              f"{outcomes['told_to_repeat']} processes told to repeat, {time.perf_counter() - began:.0f} s", flush=True)
    return 1 if lost else 0


def trial(name: str, scene: Scene, rng: random.Random) -> tuple[list[str], int]:
    """What was wrong after one contest, and how many processes were told to run the same command again."""
    contest = CONTESTS[name](scene, rng)
    codes = together(contest.jobs, [rng.uniform(0, MOST_DELAY) for _ in contest.jobs])
    wrong = [f"a process ended with {code}" for code in codes if code not in (DONE, TOLD_TO_REPEAT)]
    wrong += faults(scene, contest.versions)
    if name == "extract_and_push" and not wrong:
        wrong += faults_of_push(scene)
    return wrong, codes.count(TOLD_TO_REPEAT)


def together(jobs: Sequence[Job], delays: Sequence[float]) -> list[int]:
    """Carry out each job in a process of its own, all begun at one moment but for the delays; their exit codes."""
    reading, writing = os.pipe()
    children = [forked(job, delay, reading, writing) for job, delay in zip(jobs, delays, strict=True)]
    os.close(reading)
    os.close(writing)  # the last end: now all see the pipe's end and begin
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def forked(job: Job, delay: float, reading: int, writing: int) -> int:
    if child := os.fork():
        return child
    os.close(writing)
    os.read(reading, 1)
    time.sleep(delay)
    code = BROKE
    try:
        job()
        code = DONE
    except TransferError as error:
        code = TOLD_TO_REPEAT if "run the same command again" in str(error) else BROKE
        print(error, file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())

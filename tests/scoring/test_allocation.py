"""Freed blocks stay with the process: asking for the same again causes no new page faults."""

import subprocess
import sys

_FAULTS = """
import resource, sys
import numpy as np
from cxrbatch.scoring.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def touch():
    np.ones(1 << 26, dtype=np.uint8)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of eight rounds of 64 MB, after a first one."""
    run = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def test_large_blocks_are_reused() -> None:
    assert faults("keep") < faults("return") / 4

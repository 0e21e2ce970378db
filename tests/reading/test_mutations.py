"""Damaged files, made by a seeded generator, in a process of their own: it never dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cxrbatch.reading.outcomes import Outcome

COUNT = 2000
CHILD = Path(__file__).with_name("mutations.py")


def test_every_damaged_file_gives_a_reading_with_a_code() -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), str(COUNT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # Not by the script's folder alone, which an inherited PYTHONSAFEPATH leaves out.
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CHILD.parent), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["number"] for row in rows] == list(range(COUNT))
    for row in rows:
        assert row["outcomes"]
        assert set(row["outcomes"]) <= {outcome.value for outcome in Outcome}
        # The last bytes of a DICOM file may be a delimiter, which no image needs.
        if row["kind"] == "cut" and row["missing"] > 8:
            assert "scored" not in row["outcomes"][-1:], row
    # Whole readings that the damage left alone, and refusals, in fair shares.
    scored = sum("scored" in row["outcomes"] for row in rows)
    assert 0.05 * COUNT < scored < 0.8 * COUNT

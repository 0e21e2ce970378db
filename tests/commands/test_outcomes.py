"""`cxrbatch outcomes` lists every code."""

import pytest

from cxrbatch.cli import main
from cxrbatch.reading.outcomes import Outcome


def test_every_code_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outcomes"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert listed == [outcome.value for outcome in Outcome]

"""`cxrbatch outcomes` and docs/outcomes.md list what the code knows, and nothing else."""

from pathlib import Path

import pytest

from cxrbatch.cli import main
from cxrbatch.reading.outcomes import Flag, Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "outcomes.md"


def test_the_command_lists_every_code_once_with_its_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["outcomes"]) == 0
    blocks = capsys.readouterr().out.replace("\n\n", "\n").replace("\n    ", "|").splitlines()
    outcomes = [
        f"{item.value} ({item.kind.value})|{item.meaning}|remedy: {item.remedy}" for item in Outcome
    ]
    assert blocks == outcomes + [f"{flag.value} (flag)|{flag.meaning}" for flag in Flag]


def test_the_document_lists_every_code_once_with_its_lines() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    outcomes = [
        f"| `{item.value}` | {item.kind.value} | {item.meaning} | {item.remedy} |"
        for item in Outcome
    ]
    assert rows == outcomes + [f"| `{flag.value}` | {flag.meaning} |" for flag in Flag]


def test_no_code_is_both_an_outcome_and_a_flag() -> None:
    assert not {item.value for item in Outcome} & {flag.value for flag in Flag}

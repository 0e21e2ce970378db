"""The patient secret: made once, the user's alone, and never an error."""

from pathlib import Path

import pytest

from cxrbatch.scoring.patients import patient_secret, secret_file


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_is_made_once_for_the_user_alone(config: Path) -> None:
    first = patient_secret()
    assert first is not None
    assert len(first) == 32
    assert patient_secret() == first
    assert secret_file().stat().st_mode & 0o777 == 0o600
    assert [file.name for file in secret_file().parent.iterdir()] == ["patient-secret"]


def test_differs_between_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = []
    for user in ("a", "b"):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / user))
        secrets.append(patient_secret())
    assert secrets[0] != secrets[1]


def test_a_place_that_cannot_be_written_gives_none(config: Path) -> None:
    (config / "cxrbatch").write_text("a file where the folder should be")
    assert patient_secret() is None


def test_a_damaged_secret_gives_none(config: Path) -> None:
    secret_file().parent.mkdir()
    secret_file().write_bytes(b"short")
    assert patient_secret() is None

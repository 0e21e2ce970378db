"""The patient secret: made once, the user's alone, and never an error."""

from pathlib import Path

import pytest

from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.scoring.file_reader import is_placeholder, patient_key, patient_secret, secret_file

SECRET = bytes(32)


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


def key(patient_id: str | None, issuer: str | None = None, secret: bytes = SECRET) -> str | None:
    return patient_key(HeaderFacts(patient_id=patient_id, patient_issuer=issuer), secret)


def test_a_key_is_of_the_id_within_its_issuer_and_of_the_secret() -> None:
    keys = [key("17"), key("17", "A"), key("17", "B"), key("17A"), key("18"), key("17", None, b"s")]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key("17", "A") == key("17", "A")
    assert {len(text) for text in keys if text} == {32}


@pytest.mark.parametrize(
    "patient_id",
    [
        *(
            "0",
            "000000",
            "-",
            "^^",
            "XXX",
            "ANON",
            "Anonymous",
            "ANONYMIZED",
            "anonymised",
            "anonym",
        ),
        *("UNKNOWN", "Unknown^", "N/A", "none", "NULL", "NaN", "not available", "No ID", "No Name"),
        *("de-identified", "REMOVED", "Patient", "patient ID", "ANON^PATIENT", "Test", "missing"),
    ],
)
def test_what_stands_in_for_an_id_is_nobodys(patient_id: str) -> None:
    assert is_placeholder(patient_id)
    assert key(patient_id) is key(patient_id, "Clinic") is key(None, "Clinic") is None


@pytest.mark.parametrize(
    "patient_id", ["1", "9", "99", "111", "A", "ANON1", "anonymous-0017", "unknown 3", "X1", "患者"]
)
def test_what_may_be_somebodys_is_an_id(patient_id: str) -> None:
    assert key(patient_id) is not None

"""The patient secret: made once, the user's alone, and never an error."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from cxrbatch.cli import main
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.patient_keys import (
    accession_key,
    is_placeholder,
    patient_key,
    patient_secret,
    secret_file,
    secret_id,
)
from cxrbatch.results.table import open_table

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


def test_an_accession_key_is_of_the_number_and_of_the_secret() -> None:
    keys = [accession_key(*given) for given in (("17", SECRET), ("18", SECRET), ("17", b"s"))]
    assert None not in keys
    assert len({*keys, key("17"), key("17", "17")}) == 5
    assert accession_key(" 17 ", SECRET) == keys[0]
    assert {len(text) for text in keys if text} == {32}


@pytest.mark.parametrize("number", [None, "", "  ", "0", "ANON", "unknown", "N/A"])
def test_what_stands_in_for_a_number_has_no_key(number: str | None) -> None:
    assert accession_key(number, SECRET) is None


def test_the_accession_number_of_a_header_is_in_no_output(
    tmp_path: Path, tiny_checkpoint: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two films of one study have one key, and no file of the run holds the number."""
    numbers = ["Zq7Canary-4711"] * 2 + ["Zq7Canary-4712", ""]
    (tmp_path / "archive").mkdir()
    for n, number in enumerate(numbers):
        film = write_dicom(tmp_path / "archive" / f"{n}.dcm", number)
        if n == 1:
            film.write_bytes(film.read_bytes()[:-500])
    output = tmp_path / "r.parquet"
    words = ["score", str(tmp_path / "archive"), "--checkpoint", str(tiny_checkpoint)]
    assert main([*words, "-o", str(output), "--workers", "1", "--log-format", "json"]) in (0, 3)
    assert main(["inspect", str(tmp_path / "archive" / "0.dcm"), "--json"]) == 0
    rows = open_table(output).read(["accession_key", "outcome"]).to_pylist()
    assert [row["accession_key"] for row in rows] == [
        accession_key(number, patient_secret() or b"") for number in numbers
    ]
    assert rows[1]["outcome"] != "scored"
    made = open_table(output).provenance
    assert made["patient_secret_id"] == secret_id(patient_secret() or b"")
    told = "".join(capfd.readouterr())
    assert "Zq7Canary" not in told
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert output in written
    assert all(b"Zq7Canary" not in path.read_bytes() for path in written)
    assert "Zq7Canary" not in repr(read_radiographs(tmp_path / "archive" / "0.dcm"))


def write_dicom(path: Path, accession: str) -> Path:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = f"1.2.{path.stem}"
    film.Modality, film.PhotometricInterpretation = "DX", "MONOCHROME2"
    film.AccessionNumber = accession
    film.Rows = film.Columns = 40
    film.SamplesPerPixel, film.BitsAllocated, film.BitsStored, film.HighBit = 1, 16, 12, 11
    film.PixelRepresentation = 0
    film.PixelData = np.arange(1600, dtype="<u2").tobytes()
    film.save_as(path, enforce_file_format=True)
    return path

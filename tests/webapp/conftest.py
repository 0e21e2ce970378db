"""Fixtures: folders with tables, apps that serve them, signed-in clients, and small images."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from cxrbatch.cli import main
from cxrbatch.model.card import Card
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import (
    PROVENANCE_KEY,
    SCHEMA_VERSION,
    ImageScores,
    Row,
    facts_of,
    record_batch,
    table_schema,
)
from cxrbatch.webapp.app import close_app, create_app
from cxrbatch.webapp.runs import NO_TRUTH, Evaluations
from cxrbatch.webapp.security import allowed_hosts

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ROWS = 12
CANARY = "Zq7Canary"

WriteTable = Callable[..., Path]


@pytest.fixture(scope="session")
def write_table(tiny_card: Card) -> WriteTable:
    """Write a labelled table; each third row is not scored, and names can be given."""

    def write(path: Path, *, rows: int = ROWS, names: dict[int, str] | None = None) -> Path:
        schema = table_schema(tiny_card.classes, heatmap_size=2, labelled=True)
        scored = [_row(number, (names or {}).get(number)) for number in range(rows)]
        batch = record_batch(scored, classes=tiny_card.classes, schema=_unlabelled(schema))
        truth = pa.array([tiny_card.classes[i % 2] for i in range(rows)])
        columns = [*batch.columns, truth, pa.array(["test"] * rows)]
        provenance = {
            "schema_version": SCHEMA_VERSION,
            "classes": list(tiny_card.classes),
            "heatmap_size": 2,
            "labelled": True,
            "card": tiny_card.to_json(),
            "recipe": tiny_card.recipe.to_card(),
            "archive_root": "/nowhere",
        }
        metadata = {PROVENANCE_KEY: json.dumps(provenance).encode()}
        table = pa.table(columns, schema=schema.with_metadata(metadata))
        pq.write_table(table, path, row_group_size=5)
        return path

    return write


def _unlabelled(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in ("truth", "split")])


def _row(number: int, name: str | None) -> tuple[Row, ImageScores | None]:
    is_scored = number % 3 != 2
    row = Row(
        path=name or f"Folder/{number:03d}.dcm",
        frame=0,
        file_size=1000 + number,
        file_modified_ns=0,
        format="dicom",
        outcome="scored" if is_scored else "corrupt",
        detail="" if is_scored else "a bad checksum",
        image_hash=f"{number:032x}" if is_scored else None,
        dhash=f"{number:016x}" if is_scored else None,
        image_flags=("lateral",) if number % 4 == 0 else (),
        patient_key=f"{number:032x}",
        accession_key=f"{number:032x}",
        facts=facts_of(HeaderFacts(patient_sex="FM"[number % 2], manufacturer="Maker")),
    )
    if not is_scored:
        return row, None
    first = np.float32((number % ROWS + 1) / (ROWS + 1))
    scores = np.array([first, 1 - first, 0], np.float32)
    return row, ImageScores(scores - 1, scores, bytes(range(12)), 1.0, 2.0 * number)


@pytest.fixture
def folder(tmp_path: Path, write_table: WriteTable) -> Path:
    """A folder with one table."""
    served = tmp_path / "served"
    served.mkdir()
    write_table(served / "results.parquet")
    return served


@contextmanager
def opened_app(folder: Path) -> Iterator[Flask]:
    """An app that serves a folder; its child processes are ended afterwards."""
    app = create_app(folder, token=TOKEN, hosts=allowed_hosts("127.0.0.1"))
    yield app
    close_app(app)


@contextmanager
def server_of(
    folder: Path,
    *words: str,
    variables: dict[str, str] | None = None,
    ending: int = signal.SIGTERM,
) -> Iterator[str]:
    command = [sys.executable, "-P", "-m", "cxrbatch", "serve", str(folder), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--token", TOKEN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
        text=True,
    )
    with server:
        assert server.stdout is not None
        printed = server.stdout.readline().strip()
        assert printed.endswith(f"/?token={TOKEN}")
        try:
            yield printed.removesuffix(f"/?token={TOKEN}")
        finally:
            server.send_signal(ending)
        _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (0, "")


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[str]]:
    """Function that serves a folder by the command; checks exit code 0 and an empty log."""
    return server_of


@pytest.fixture
def evaluating_app(folder: Path) -> Iterator[Flask]:
    """An app that serves `folder` and evaluates its table."""
    with opened_app(folder) as app:
        yield app


@pytest.fixture
def app(evaluating_app: Flask, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The same app without evaluations: a child process in each test would take minutes."""
    monkeypatch.setattr(Evaluations, "get", lambda self, path, version: NO_TRUTH)
    return evaluating_app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of `app` that is signed in."""
    client = app.test_client()
    assert client.get(f"/?token={TOKEN}").status_code == 303
    return client


@pytest.fixture
def run_id(client: FlaskClient) -> str:
    """The id of the table in `folder`."""
    (run,) = client.get("/api/v1/runs").get_json()["runs"]
    return str(run["id"])


def cells_of(seed: int) -> np.ndarray:
    """Noise of 12 bits, shape (90, 120), uint16."""
    return np.random.default_rng(seed).integers(0, 4096, (90, 120), dtype=np.uint16)


def png_of(seed: int) -> bytes:
    """A PNG file of 16 bits."""
    stream = io.BytesIO()
    Image.fromarray(cells_of(seed) * 16).save(stream, "PNG")
    return stream.getvalue()


def dicom_of(seed: int) -> bytes:
    """A radiograph whose header and preamble name a person who must never be seen."""
    cells = cells_of(seed)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.40719"
    header.PatientName, header.PatientID = f"{CANARY}^Name", f"{CANARY}-id"
    header.PatientBirthDate, header.PatientAge, header.PatientSex = "19440719", "080Y", "F"
    header.StudyDate, header.AccessionNumber = "20240719", f"{CANARY}A"
    header.InstitutionName, header.StudyDescription = f"{CANARY} House", "<script>alert(1)</script>"
    header.Modality, header.Manufacturer = "CR", "<b>Maker</b>"
    header.Rows, header.Columns = cells.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation, header.PixelData = 0, cells.tobytes()
    header.WindowCenter, header.WindowWidth = 2048, 4096
    header.preamble = CANARY.encode().ljust(128, b"!")
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture(scope="session")
def scored_folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with an archive of four files, two of them unreadable, and its results table."""
    folder = tmp_path_factory.mktemp("scored")
    archive = folder / "archive"
    archive.mkdir()
    (archive / "a.png").write_bytes(png_of(3))
    (archive / "b.dcm").write_bytes(dicom_of(4))
    (archive / "c.png").write_bytes(png_of(5)[:900])
    (archive / "d.txt").write_text("a note")
    words = ["score", str(archive), "-o", str(folder / "results.parquet")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        assert main([*words, "--checkpoint", str(tiny_checkpoint), "--workers", "1"]) == 3
    return folder


@pytest.fixture(scope="module")
def scored_app(scored_folder: Path) -> Iterator[Flask]:
    """An app that serves `scored_folder`."""
    with opened_app(scored_folder) as app:
        yield app


@pytest.fixture
def scored(scored_app: Flask) -> FlaskClient:
    """A client of `scored_app` that is signed in."""
    client = scored_app.test_client()
    client.get(f"/?token={TOKEN}")
    return client

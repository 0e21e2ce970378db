"""An upload gets the scores of its row in a table, does no harm and leaves nothing behind."""

import io
import logging
import os
import random
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pydicom
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from cxrbatch.results.table import open_table
from cxrbatch.webapp.app import close_app, create_app
from cxrbatch.webapp.children import WorkQueue
from cxrbatch.webapp.library import get_service
from cxrbatch.webapp.security import allowed_hosts
from cxrbatch.webapp.uploads import UploadScorer

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CANARY = "Zq7Canary"


@pytest.fixture(scope="module")
def scorer_app(scored_folder: Path, tiny_checkpoint: Path) -> Iterator[Flask]:
    """An app that scores with the checkpoint that made the table of `scored_folder`."""
    hosts = allowed_hosts("127.0.0.1")
    app = create_app(scored_folder, token=TOKEN, hosts=hosts, checkpoint=tiny_checkpoint)
    yield app
    close_app(app)


@pytest.fixture
def visitor(scorer_app: Flask) -> FlaskClient:
    client = scorer_app.test_client()
    client.get(f"/?token={TOKEN}")
    return client


def sent(data: bytes, name: str = "x") -> dict[str, object]:
    return {"file": (io.BytesIO(data), name)}


def score(app: Flask, data: bytes, name: str = "x") -> tuple[int, dict[str, object]]:
    # Encoded here: the client would put a large body into a temporary file and leave it open.
    boundary, body = encode_multipart({"file": FileStorage(io.BytesIO(data), filename=name)})
    content = f"multipart/form-data; boundary={boundary}"
    client = app.test_client()
    answer = client.post("/api/v1/score", data=body, content_type=content, headers=BEARER)
    return answer.status_code, answer.get_json()


@pytest.mark.parametrize(("number", "name"), [(0, "a.png"), (1, "b.dcm"), (2, "c.png")])
def test_an_upload_has_the_scores_of_its_row_in_a_table(
    scorer_app: Flask, scored_folder: Path, number: int, name: str
) -> None:
    table = open_table(scored_folder / "results.parquet")
    row = table.read(next(iter(table.row_groups())).column_names).to_pylist()[number]
    status, answer = score(scorer_app, (scored_folder / "archive" / name).read_bytes())
    assert status == 200
    (frame,) = answer["frames"]  # type: ignore[misc]
    assert row["path"] == name
    assert frame["flags"] == row["image_flags"]
    for column in ("outcome", "detail", "image_hash", "prediction", "heatmap_scale"):
        assert frame.get(column) == row[column]
    for column, value in frame["facts"].items():
        assert value == row[column]
    if row["prediction"] is None:
        return
    for label in table.classes:
        assert frame["probabilities"][label] == row[f"p_{label}"]
        assert frame["logits"][label] == row[f"logit_{label}"]
    levels = np.array([frame["heatmaps"][label] for label in table.classes], np.uint8)
    assert levels.tobytes() == row["heatmaps"]


def test_the_page_shows_prediction_heat_maps_and_facts(
    visitor: FlaskClient, scored_folder: Path
) -> None:
    secret = visitor.get("/upload").text.partition('name="csrf" value="')[2].partition('"')[0]
    data = {**sent((scored_folder / "archive/b.dcm").read_bytes()), "csrf": secret}
    answer = visitor.post("/upload", data=data, headers={"Origin": "http://localhost"})
    assert answer.status_code == 200
    assert 'class="verdict"' in answer.text
    assert answer.text.count("data:image/png;base64,") == 4
    assert "&lt;b&gt;Maker" in answer.text


@pytest.mark.parametrize(
    ("headers", "csrf"),
    [
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, True),
        ({}, True),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "http://localhost.evil.example"}, True),
    ],
)
@pytest.mark.parametrize("address", ["/upload", "/api/v1/score"])
def test_a_post_of_another_site_is_refused(
    visitor: FlaskClient, address: str, headers: dict[str, str], csrf: bool
) -> None:
    secret = visitor.get("/upload").text.partition('name="csrf" value="')[2].partition('"')[0]
    data = {**sent(b"x"), "csrf": secret if csrf else "another"}
    assert visitor.post(address, data=data, headers=headers).status_code == 403


def test_a_foreign_origin_is_refused_even_with_the_token(scorer_app: Flask) -> None:
    headers = {**BEARER, "Origin": "http://evil.example"}
    answer = scorer_app.test_client().post("/api/v1/score", data=sent(b"x"), headers=headers)
    assert answer.status_code == 403


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as container:
        container.writestr("a.png", data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg onload=alert(1)>", b"\x1f\x8b\x08" + bytes(99), zipped(b"x")]
)
def test_other_formats_and_archives_are_refused(scorer_app: Flask, data: bytes) -> None:
    status, answer = score(scorer_app, data)
    assert status == 415
    assert set(answer) == {"error", "id"}


def test_a_request_without_exactly_one_file_is_refused(scorer_app: Flask) -> None:
    client = scorer_app.test_client()
    for data in ({}, {"other": (io.BytesIO(b"x"), "x")}, {"file": [(io.BytesIO(b"x"), "x")] * 2}):
        answer = client.post("/api/v1/score", data=data, headers=BEARER)
        assert answer.status_code == 400


def test_a_body_over_the_limit_is_refused_by_its_header(scorer_app: Flask) -> None:
    class Unread(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise AssertionError("the body was read")

    answer = scorer_app.test_client().post(
        "/api/v1/score",
        input_stream=Unread(),
        headers=BEARER,
        environ_overrides={"CONTENT_LENGTH": str(1 << 30)},
        content_type="multipart/form-data; boundary=b",
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/passwd", "a\x00b", "<script>alert(1)</script>.png", "x" * 5000]
)
def test_the_name_of_an_upload_is_neither_used_nor_shown(
    visitor: FlaskClient, scored_folder: Path, name: str
) -> None:
    data = (scored_folder / "archive/c.png").read_bytes()
    answer = visitor.post("/upload", data=sent(data, name), headers=BEARER)
    assert answer.status_code == 200
    assert name not in answer.text
    assert "passwd" not in answer.text


def png_bomb() -> bytes:
    """A PNG of 60,000 × 60,000 pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def swollen_png() -> bytes:
    """A PNG of one pixel whose compressed data are a gigabyte."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    header = (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in parts
    )


def dicom_bomb(whole: bytes, **claims: int) -> bytes:
    """A DICOM that claims more than it holds."""
    header = pydicom.dcmread(io.BytesIO(whole))
    for name, value in claims.items():
        setattr(header, name, value)
    stream = io.BytesIO()
    header.save_as(stream)
    return stream.getvalue()


def deflated_bomb(whole: bytes) -> bytes:
    """A deflated DICOM whose data set grows to a gigabyte."""
    header = pydicom.dcmread(io.BytesIO(whole))
    del header.PixelData
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    length = int.from_bytes(data[140:144], "little") + 144  # (0002,0000), the group's length
    packer = zlib.compressobj(9, wbits=-15)
    element = b"\xe0\x7f\x10\x00OW\x00\x00" + (1 << 30).to_bytes(4, "little")
    packed = packer.compress(zlib.decompress(data[length:], wbits=-15) + element)
    packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    return data[:length] + packed


def test_a_decompression_bomb_gets_an_outcome(scorer_app: Flask, scored_folder: Path) -> None:
    whole = (scored_folder / "archive/b.dcm").read_bytes()
    bombs = {
        "huge PNG": png_bomb(),
        "swollen PNG": swollen_png(),
        "rows and columns": dicom_bomb(whole, Rows=65_535, Columns=65_535),
        "frames": dicom_bomb(whole, NumberOfFrames=2_000_000_000),
        "deflated": deflated_bomb(whole),
    }
    for name, data in bombs.items():
        assert len(data) < 3 << 20
        status, answer = score(scorer_app, data)
        assert status == 200
        frames = answer["frames"]
        assert isinstance(frames, list)
        assert len(frames) == 1, name
        assert frames[0]["outcome"] in ("too_large", "corrupt", "truncated"), (name, frames[0])
    assert score(scorer_app, (scored_folder / "archive/a.png").read_bytes())[0] == 200


def test_a_file_name_that_is_not_utf_8_is_refused(scorer_app: Flask) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xff.png"\r\n\r\n'
    answer = scorer_app.test_client().post(
        "/api/v1/score",
        data=head + b"x\r\n--b--\r\n",
        headers=BEARER,
        content_type="multipart/form-data; boundary=b",
    )
    assert answer.status_code == 400


def test_an_incomplete_body_leaves_no_file_open(
    scorer_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[IO[bytes]] = []

    def open_one() -> IO[bytes]:
        opened.append(temporary())
        return opened[-1]

    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", open_one)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    answer = scorer_app.test_client().post(
        "/api/v1/score",
        data=head + b"x" * 100_000,
        headers=BEARER,
        content_type="multipart/form-data; boundary=b",
    )
    assert answer.status_code == 400
    assert opened
    assert all(stream.closed for stream in opened)


def test_damaged_uploads_get_an_outcome_or_a_refusal(
    scorer_app: Flask, scored_folder: Path
) -> None:
    rng = random.Random(7)
    whole = [(scored_folder / "archive" / name).read_bytes() for name in ("a.png", "b.dcm")]
    for turn in range(24):
        data = bytearray(whole[turn % 2])
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data) if turn % 4 > 1 else 400)] = rng.randrange(256)
        status, answer = score(scorer_app, bytes(data[: rng.randint(len(data) // 2, len(data))]))
        assert status in (200, 415), answer
        assert b"Canary" not in str(answer).encode()


def test_an_upload_is_refused_when_the_queue_is_full(
    scorer_app: Flask, scored_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = get_service(UploadScorer, scorer_app)
    monkeypatch.setattr(scorer, "_queue", WorkQueue(running=1, waiting=0))
    data = (scored_folder / "archive/a.png").read_bytes()
    with scorer._queue.turn():
        client = scorer_app.test_client()
        answer = client.post("/api/v1/score", data=sent(data), headers=BEARER)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/api/v1/runs", headers=BEARER).status_code == 200
    assert score(scorer_app, data)[0] == 200


def test_nothing_about_a_person_is_answered_logged_or_kept(
    visitor: FlaskClient,
    scored_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = (scored_folder / "archive/b.dcm").read_bytes()
    assert CANARY.encode() in data
    answers = []
    with caplog.at_level(logging.DEBUG):
        for damage in (slice(0, 0), slice(140, 150), slice(-400, None)):
            broken = bytearray(data)
            broken[damage] = bytes(len(broken[damage]))
            for address in ("/upload", "/api/v1/score"):
                upload = sent(bytes(broken), f"{CANARY}.dcm")
                answers.append(visitor.post(address, data=upload, headers=BEARER).text)
    for secret in (CANARY, "19440719", "20240719", "1.2.3.40719", "<script>alert"):
        assert not [answer for answer in answers if secret in answer]
        assert secret not in caplog.text
    assert os.listdir(tmp_path) == []


def test_openapi_describes_the_answer_to_a_score(scorer_app: Flask, scored_folder: Path) -> None:
    described = scorer_app.test_client().get("/api/v1/openapi.json", headers=BEARER).get_json()
    content = described["paths"]["/api/v1/score"]["post"]["responses"]["200"]["content"]
    told = content["application/json"]["schema"]["properties"]
    _, answer = score(scorer_app, (scored_folder / "archive/a.png").read_bytes())
    assert set(answer) == set(told)
    assert set(answer["frames"][0]) == set(told["frames"]["items"]["properties"])  # type: ignore[index]

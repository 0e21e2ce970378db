"""With --keep-uploads, uploads are kept whole and private; without it, nothing is kept."""

import io
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cxrbatch.cli import main
from cxrbatch.errors import UsageError
from cxrbatch.webapp.app import close_app, create_app
from cxrbatch.webapp.library import InsufficientStorage
from cxrbatch.webapp.security import allowed_hosts
from cxrbatch.webapp.uploads import UploadKeeper

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def keeping_app(kept: Path, scored_folder: Path, tiny_checkpoint: Path) -> Iterator[Flask]:
    hosts = allowed_hosts("127.0.0.1")
    app = create_app(
        scored_folder, token=TOKEN, hosts=hosts, checkpoint=tiny_checkpoint, keep_uploads=kept
    )
    yield app
    close_app(app)


def send(client: FlaskClient, data: bytes) -> tuple[int, str]:
    sent = {"file": (io.BytesIO(data), "../Zq7Canary.dcm")}
    answer = client.post("/api/v1/score", data=sent, headers=BEARER)
    return answer.status_code, answer.text


def test_a_kept_upload_is_unchanged_and_private(
    keeping_app: Flask, kept: Path, scored_folder: Path
) -> None:
    client = keeping_app.test_client()
    assert "this server keeps it" in client.get("/upload", headers=BEARER).text
    whole = (scored_folder / "archive/b.dcm").read_bytes()
    broken = (scored_folder / "archive/c.png").read_bytes()
    told = [json.loads(send(client, data)[1])["frames"] for data in (whole, broken, whole)]
    assert send(client, b"a note")[0] == 415
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    content = {path: path.read_bytes() for path in kept.iterdir()}
    assert sorted(path.suffix for path in content) == [".dicom"] * 2 + [".json"] * 3 + [".png"]
    assert "Canary" not in "".join(path.name for path in content)
    for path, data in content.items():
        if path.suffix != ".json":
            assert data == (broken if path.suffix == ".png" else whole)
            row = json.loads(content[path.with_suffix(".json")])
            assert row in told
            assert row[0]["format"] == path.suffix.removeprefix(".")


def test_an_upload_that_cannot_be_kept_is_answered_with_507(
    keeping_app: Flask, kept: Path, scored_folder: Path
) -> None:
    kept.rmdir()
    client = keeping_app.test_client()
    status, answer = send(client, (scored_folder / "archive/a.png").read_bytes())
    assert status == 507
    assert "cannot be kept: No such file or directory" in json.loads(answer)["error"]
    assert not kept.exists()


@pytest.mark.parametrize(("size", "told"), [(9000, []), (100, ["x" * 9000])])
def test_a_partly_written_upload_is_deleted(kept: Path, size: int, told: list[str]) -> None:
    keeper = UploadKeeper(kept)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InsufficientStorage, match="File too large"):
            keeper.keep(io.BytesIO(bytes(size)), "png", told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(kept.iterdir()) == []


def test_an_unusable_folder_ends_the_command_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "open").mkdir(0o755)
    for name in ("open", "absent/kept", "/proc/kept"):
        words = ["serve", str(tmp_path), "--keep-uploads", str(tmp_path / name)]
        assert main([*words, "--port", "0"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "another folder" in said


def test_an_existing_private_folder_is_used(kept: Path) -> None:
    kept.mkdir(0o700)
    (kept / "earlier").touch()
    UploadKeeper(kept).keep(io.BytesIO(b"x"), "png", [])
    assert len(list(kept.iterdir())) == 3
    kept.chmod(0o750)
    with pytest.raises(UsageError, match="chmod 700"):
        UploadKeeper(kept)

"""Names of any bytes and any length are rows, through the reading processes and back."""

import os
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.files import text_to_path

NAMES = [b"new\nline", b"quote'\"`$(x)", b"\xff\xfe\x80", b" ", b"-o", b"back\\slash", b"x" * 255]


def make_deep(root: Path) -> bytes:
    """Write a film at a path longer than the system takes in one piece; gives its path."""
    name, depth = b"d" * 200, 25
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(b"film", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    return b"/".join([name] * depth + [b"film"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_each_has_its_row(tmp_path: Path, tiny_checkpoint: Path, workers: str) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    film = archive / "film.png"
    Image.new("L", (40, 30), 77).save(film)
    for name in NAMES:
        os.link(film, os.path.join(os.fsencode(archive), name))
    deep = make_deep(archive)
    os.mkfifo(archive / "fifo")
    (archive / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(archive / "socket"))
    output = tmp_path / "r.parquet"
    words = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
    assert main([*words, "--workers", workers]) == 3
    rows = pq.read_table(output).to_pylist()
    found = {text_to_path(row["path"]): row["outcome"] for row in rows}
    assert found == {deep: "unreadable_file"} | dict.fromkeys([*NAMES, b"film.png"], "scored")
    assert len(rows) == len(NAMES) + 2

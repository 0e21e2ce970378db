"""Parts join to the bytes of one run, and only all parts of one archive and recipe do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.errors import UsageError
from cxrbatch.results.table import open_table
from cxrbatch.scoring.existing_tables import merge_parts

FILES = 9

Score = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(FILES):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "note").write_text("a note")
    (folder / "link").symlink_to("note")
    return folder


@pytest.fixture
def score(archive: Path, tiny_checkpoint: Path) -> Score:
    def run(name: str, *options: str) -> Path:
        output = archive.parent / name
        words = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
        words += ["--workers", "0", "--batch-size", "4", "--commit-every", "5"]
        assert main([*words, *options]) == 0
        return output

    return run


@pytest.mark.parametrize("of", [1, 3, 13])
def test_parts_join_to_the_bytes_of_one_run(score: Score, tmp_path: Path, of: int) -> None:
    whole = score("whole.parquet")
    parts = [str(score(f"{i}.parquet", "--shard", f"{i}/{of}")) for i in range(of, 0, -1)]
    if of == 1:
        assert Path(parts[0]).read_bytes() == whole.read_bytes()
        return
    assert sum(open_table(Path(part)).rows for part in parts) == FILES + 1
    assert main(["merge", str(tmp_path / "merged.parquet"), *parts]) == 0
    assert (tmp_path / "merged.parquet").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "merged.parquet.partial").exists()


def test_no_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no parts are given"):
        merge_parts(tmp_path / "merged.parquet", [])


def test_what_does_not_go_together_is_refused(
    score: Score, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, one, two = score("w"), score("1", "--shard", "1/2"), score("2", "--shard", "2/2")
    other = score("o", "--shard", "2/2", "--max-pixels", "99999")
    fast = score("f", "--shard", "2/2", "--fast-decode")
    (archive / "note").write_text("another note")
    changed = score("c", "--shard", "2/2")
    capsys.readouterr()
    output = archive.parent / "merged"
    for parts, code, words in (
        ([one], 2, "part 1 of 2, and 1 tables were given"),
        ([one, one], 2, "is it too"),
        ([one, two, two], 2, "3 tables were given"),
        ([one, whole], 2, "is not a part"),
        ([one, other], 2, "max pixels (99999, now 200000000)"),
        ([one, fast], 2, "--fast-decode (true, now false)"),
        ([fast, one], 2, "--fast-decode (true, now false)"),
        ([one, changed], 2, "manifest sha256"),
        ([one, archive / "note"], 1, "cannot open table"),
        ([one, archive / "absent"], 1, "cannot open table"),
    ):
        assert main(["merge", str(output), *map(str, parts)]) == code
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
        assert not output.exists()
    output.write_text("precious")
    assert main(["merge", str(output), str(one), str(two)]) == 2
    assert output.read_text() == "precious"
    assert main(["merge", str(output), str(one), str(two), "--overwrite"]) == 0
    assert open_table(output).rows == FILES + 1


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_shards_that_cannot_be_are_refused(
    shard: str, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(archive), "--shard", shard]) == 2
    assert "like 2/8" in capsys.readouterr().err

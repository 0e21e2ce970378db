"""A run that stops anywhere goes on to the same bytes, and meets nothing twice."""

import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from resuming import SHARD, Killed, Watcher, run_of, write_film

from cxrbatch.errors import TableError, UsageError
from cxrbatch.files import claimed, partial_folder
from cxrbatch.results.table import open_table
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.scoring.run import Part, Summary

FILES = 100
FILM_NAMES = [f"{number // 10}/film{number:03d}" for number in range(FILES)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    for number, name in enumerate(FILM_NAMES):
        if number % 9 == 4:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\nbut no more")
        else:
            write_film(folder / name, number)
    return folder


@pytest.fixture
def score(archive: Path, tiny_checkpoint: Path) -> Callable[..., Summary]:
    def run(output: Path, **options: object) -> Summary:
        return run_of(archive, output, tiny_checkpoint)(**options)

    return run


def test_stops_anywhere_and_goes_on_to_the_same_bytes(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    score(tmp_path / "whole.parquet")
    chance = random.Random(1)
    output, read = tmp_path / "r.parquet", 0
    for _ in range(6):
        with pytest.raises(Killed):
            score(output, stop_after=chance.randint(1, 30))
        assert not output.exists()
    last = Watcher()
    summary = score(output, watcher=last)
    read = summary.read
    assert last.begun_with + read == FILES
    assert summary.counts.files == FILES
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not partial_folder(output).exists()


def test_at_most_a_shard_is_read_again(score: Callable[..., Summary], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", stop_after=3 * SHARD + 5)
    assert score(tmp_path / "r.parquet").read == FILES - 3 * SHARD


def test_shards_leave_no_trace_in_the_table(score: Callable[..., Summary], tmp_path: Path) -> None:
    for name, size, workers in (("a", 1, 0), ("b", 7, 2), ("c", 4096, 1)):
        score(tmp_path / name, commit_every=size, workers=workers)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_a_finished_run_is_not_repeated(score: Callable[..., Summary], tmp_path: Path) -> None:
    output = tmp_path / "r.parquet"
    first = score(output)
    before = output.stat()
    again = score(output)
    assert again.read == 0
    assert again.counts.outcomes == first.counts.outcomes
    assert again.failures == first.failures > 0
    assert os.path.samestat(output.stat(), before)
    assert score(output, overwrite=True).read == FILES


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_size": 5}, "batch size (8, now 5)"),
        ({"max_pixels": 1000}, "max pixels"),
        ({"modalities": frozenset({"XA"})}, "modalities"),
        ({"precision": "bf16"}, "precision (fp32, now bf16)"),
        ({"deadline": 1.0}, "--deadline (60.0, now 1.0)"),
        ({"part": Part(1, 2)}, "part ("),
        ({"fast_decode": True}, "--fast-decode (false, now true)"),
    ],
)
def test_another_fingerprint_is_refused_and_named(
    score: Callable[..., Summary], tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    output = tmp_path / "r.parquet"
    with pytest.raises(Killed):
        score(output, stop_after=20)
    with pytest.raises(UsageError, match="unfinished run") as refused:
        score(output, **changed)
    assert words in str(refused.value)
    assert score(output).read == FILES - 2 * SHARD
    finished = output.read_bytes()
    with pytest.raises(UsageError, match="exists and differs") as refused:
        score(output, **changed)
    assert words in str(refused.value)
    assert output.read_bytes() == finished


def test_a_table_of_fast_decoding_is_gone_on_with_by_it_alone(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    output = tmp_path / "r.parquet"
    score(output, fast_decode=True)
    for update in (False, True):
        with pytest.raises(UsageError, match=r"--fast-decode \(true, now false\)"):
            score(output, update=update)
        assert score(output, fast_decode=True, update=update).read == 0
    score(tmp_path / "plain.parquet")
    made = [open_table(tmp_path / name).provenance for name in ("r.parquet", "plain.parquet")]
    assert made[0] == {**made[1], "fast_decode": True}
    assert "fast_decode" not in made[1]


def test_another_secret_is_refused(
    score: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", stop_after=20)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    with pytest.raises(UsageError, match="the patient secret"):
        score(tmp_path / "r.parquet")
    secret = (tmp_path / "another" / "cxrbatch" / "patient-secret").read_bytes()
    for path in partial_folder(tmp_path / "r.parquet").iterdir():
        assert secret not in path.read_bytes()
        assert secret.hex().encode() not in path.read_bytes()


def test_the_output_of_another_run_is_not_replaced_when_going_on(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    output = tmp_path / "r.parquet"
    output.write_text("precious")
    with pytest.raises(Killed):
        score(output, stop_after=20, overwrite=True)
    with pytest.raises(UsageError, match="exists"):
        score(output)
    assert output.read_text() == "precious"
    assert score(output, overwrite=True).read == FILES - 2 * SHARD


@pytest.mark.parametrize("damage", ["cut", "gone", "foreign"])
def test_a_shard_that_does_not_hold_is_made_anew(
    score: Callable[..., Summary], tmp_path: Path, damage: str
) -> None:
    output = tmp_path / "r.parquet"
    with pytest.raises(Killed):
        score(output, stop_after=30)
    shard = partial_folder(output) / "shard-000001.arrow"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-30])
    elif damage == "gone":
        shard.unlink()
    else:
        shutil.copy(tmp_path / "archive" / FILM_NAMES[0], shard)
    assert score(output).read == FILES - 2 * SHARD
    score(tmp_path / "whole.parquet")
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_shard_that_rots_later_is_named(score: Callable[..., Summary], tmp_path: Path) -> None:
    output = tmp_path / "r.parquet"
    with pytest.raises(Killed):
        score(output, stop_after=30)
    shard = partial_folder(output) / "shard-000001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    shard.write_bytes(content)
    with pytest.raises(TableError, match=r"shard-000001\.arrow is damaged"):
        score(output)
    shard.unlink()
    assert score(output).counts.files == FILES


def test_culprits_are_not_met_again(
    score: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, number = tmp_path / "r.parquet", FILM_NAMES.index("1/film012")
    with pytest.raises(Killed):
        score(output, stop_after=10)
    line = json.dumps([number, "decoder_timeout", "no image after 60 s"])
    with (partial_folder(output) / "culprits").open("a") as culprits:
        culprits.write(f'\n{line}\n\n[1, "decoder_cr')  # the last one was cut short
    read = FileReader.read
    met: list[bytes] = []

    def noted(reader: FileReader, file: ArchiveFile) -> LoadedFile:
        met.append(file.path)
        return read(reader, file)

    monkeypatch.setattr(FileReader, "read", noted)
    watcher = Watcher()
    score(output, watcher=watcher)
    assert b"1/film012" not in met
    assert len(met) == FILES - SHARD - 1
    assert (number, "decoder_timeout") in watcher.failures
    (row,) = pq.read_table(output, filters=[("path", "=", "1/film012")]).to_pylist()
    assert row["outcome"] == "decoder_timeout"


def test_files_that_vanish_after_the_walk_have_rows(
    score: Callable[..., Summary], archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", stop_after=5)
    (archive / FILM_NAMES[50]).unlink()
    (archive / FILM_NAMES[60]).write_bytes((archive / FILM_NAMES[60]).read_bytes()[:50])
    (archive / FILM_NAMES[70]).unlink()
    os.mkfifo(archive / FILM_NAMES[70])
    shutil.rmtree(archive / "8")
    summary = score(tmp_path / "r.parquet")
    assert summary.counts.files == FILES
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["path"] for row in rows] == FILM_NAMES
    assert [rows[number]["outcome"] for number in (50, 60, 70, 80)] == [
        "unreadable_file",
        "truncated",
        "unreadable_file",
        "unreadable_file",
    ]


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    output = tmp_path / "r.parquet"
    with (
        claimed(output),
        pytest.raises(UsageError, match=f"written by process {os.getpid()} on "),
        claimed(output),
    ):
        pass
    assert not partial_folder(output).exists()


def _claim_and_die(output: Path) -> None:
    with claimed(output) as folder:
        (folder / "run.json").write_text("{}")
        os._exit(9)


def test_the_lock_of_a_dead_run_is_no_obstacle(tmp_path: Path) -> None:
    output = tmp_path / "r.parquet"
    run = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(output,))
    run.start()
    run.join()
    assert (partial_folder(output) / "lock").exists()
    with claimed(output):
        pass


def test_a_folder_of_someone_elses_is_left_alone(tmp_path: Path) -> None:
    folder = partial_folder(tmp_path / "r.parquet")
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with (
        pytest.raises(UsageError, match="not the folder of a run"),
        claimed(tmp_path / "r.parquet"),
    ):
        pass
    assert (folder / "thesis.tex").read_text() == "precious"


def test_numbers_of_parts_make_up_the_whole() -> None:
    for files in (0, 1, 5, 100, 1001):
        for of in (1, 2, 3, 7, 200):
            numbers = [n for i in range(of) for n in Part(i + 1, of).numbers(files)]
            assert numbers == list(range(files))


def test_reading_is_not_repeated_where_a_shard_was_not_written(
    score: Callable[..., Summary],
    tmp_path: Path,
    full_at: Callable[[str], AbstractContextManager[None]],
) -> None:
    """A write that fails is one line, what was committed stays, and the run goes on from it."""
    error = pytest.raises(TableError, match="No space left on device; free space")
    with full_at("shard-000003.arrow"), error:
        score(tmp_path / "r.parquet")
    assert score(tmp_path / "r.parquet").read == FILES - 3 * SHARD

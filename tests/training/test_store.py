"""The store never gives what was not put into it, whatever happened to its file."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.errors import CxrbatchError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.training import store as module
from cxrbatch.training.store import CacheFile, open_store, remove_stores

SIZE = 32
RECORD = 128 + SIZE * SIZE


def place(folder: Path, identity: str = "a" * 64) -> CacheFile:
    return CacheFile(folder / "cache", identity, SIZE)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)


def put(where: CacheFile, *numbers: int) -> None:
    """Keep pictures; every third number is a file that could not be read."""
    with open_store(where) as store:
        for number in numbers:
            if number % 3 == 0:
                store.append(key(number), Outcome.CORRUPT, None)
            else:
                store.append(key(number), Outcome.SCORED, picture(number))


def held(where: CacheFile, numbers: range) -> set[int]:
    """The numbers that are there, each checked to be what was put."""
    there = set()
    with open_store(where) as store:
        keys = where.keys(store.count)
        inputs = where.records(store.count)["input"]
        for number in numbers:
            if key(number) not in keys:
                with pytest.raises(KeyError):
                    store.row(key(number), near=0)
                continue
            row = store.row(key(number), near=0)
            readable = number % 3 != 0
            assert store.outcome(row) is (Outcome.SCORED if readable else Outcome.CORRUPT)
            assert np.array_equal(inputs[row], picture(number) if readable else 0 * picture(0))
            there.add(number)
    return there


def test_what_is_kept_is_there_the_next_time(tmp_path: Path) -> None:
    put(place(tmp_path), 1, 2, 3)
    put(place(tmp_path), 4)
    assert held(place(tmp_path), range(1, 7)) == {1, 2, 3, 4}


def test_a_patient_is_kept_with_the_bytes(tmp_path: Path) -> None:
    with open_store(place(tmp_path)) as store:
        store.append(key(1), Outcome.SCORED, picture(1), "0f" * 16)
        store.append(key(2), Outcome.CORRUPT, None)
    with open_store(place(tmp_path)) as store:
        assert [store.patient(row) for row in range(2)] == ["0f" * 16, None]


def test_a_file_that_is_cut_anywhere_has_its_whole_records(tmp_path: Path) -> None:
    where = place(tmp_path)
    put(where, 1, 2, 3)
    whole = where.file.read_bytes()
    assert len(whole) == 128 + 3 * RECORD
    for length in (*range(0, 128, 16), *range(128, len(whole), 97), 127, 128, len(whole) - 1):
        where.file.write_bytes(whole[:length])
        kept = max(length - 128, 0) // RECORD
        assert held(where, range(1, 4)) == set(range(1, kept + 1))
        put(where, 4)  # and it can go on
        assert held(where, range(1, 5)) == {*range(1, kept + 1), 4}


def test_a_record_that_was_edited_anywhere_is_not_used(tmp_path: Path) -> None:
    where = place(tmp_path)
    put(where, 1, 2, 4)
    whole = where.file.read_bytes()
    for offset in (*range(128), *range(128, RECORD, 61), RECORD - 1):
        spoilt = bytearray(whole)
        spoilt[128 + RECORD + offset] ^= 0x41
        where.file.write_bytes(spoilt)
        assert held(where, range(1, 5)) == {1, 4}
    put(where, 2)
    assert held(where, range(1, 5)) == {1, 2, 4}


def test_another_head_means_another_store(tmp_path: Path) -> None:
    where = place(tmp_path)
    put(where, 1)
    other = CacheFile(where.folder, where.identity[:16] + "b" * 48, SIZE)
    assert other.file == where.file
    assert held(other, range(1, 3)) == set()
    where.file.write_text("something else")
    assert held(where, range(1, 3)) == set()


def test_places_with_other_identities_share_a_folder(tmp_path: Path) -> None:
    put(place(tmp_path), 1)
    assert held(place(tmp_path, "b" * 64), range(1, 3)) == set()
    assert held(place(tmp_path), range(1, 3)) == {1}


def test_what_is_mapped_outlives_a_store_that_is_made_anew(tmp_path: Path) -> None:
    where = place(tmp_path)
    put(where, 1)
    mapped = where.records(1)["input"]
    put(CacheFile(where.folder, where.identity[:16] + "b" * 48, SIZE), 2)
    assert np.array_equal(mapped[0], picture(1))


_ENDLESS = """
import sys
from itertools import count
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import place, put
for number in count():
    put(place(Path({folder!r})), number)
    if number > 2:
        print(flush=True)
"""


def test_a_kill_leaves_what_was_kept(tmp_path: Path) -> None:
    code = _ENDLESS.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    assert held(place(tmp_path), range(4000)) >= {0, 1, 2}


def test_a_full_disk_is_one_line_and_costs_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(tmp_path)
    put(where, 1)

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < RECORD:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, bytes(data)[: RECORD // 2], offset)

    real = os.pwrite
    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(CxrbatchError, match=r"cannot use the cache .*No space left.*free space"):
        put(where, 2)
    monkeypatch.undo()
    assert held(where, range(1, 3)) == {1}


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(CxrbatchError, match=r"cannot use the cache .*choose another --cache"):
        put(place(tmp_path), 1)


def test_removing_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    where = place(tmp_path)
    put(where, 1)
    put(place(tmp_path, "b" * 64), 1)  # of another recipe or reader
    (where.folder / "mine").touch()
    remove_stores(where.folder)
    assert [path.name for path in where.folder.iterdir()] == ["mine"]
    put(where, 1)
    (where.folder / "mine").unlink()
    remove_stores(where.folder)
    assert not where.folder.exists()


def test_one_process_holds_it_at_a_time(tmp_path: Path) -> None:
    """The second one starts while the first one holds the store, and sees all that it wrote."""
    where = place(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path;"
        "from test_store import place, put, held; print(flush=True);"
        f"assert held(place(Path({str(tmp_path)!r})), range(1, 4)) == {{1, 2}}"
    )
    with open_store(where) as store:
        store.append(key(1), Outcome.SCORED, picture(1))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        store.append(key(2), Outcome.SCORED, picture(2))
    assert process.wait() == 0
    process.stdout.close()


def test_rows_of_equal_bytes_are_those_that_were_asked_for(tmp_path: Path) -> None:
    put(place(tmp_path), 1, 2, 1)
    with open_store(place(tmp_path)) as store:
        rows: Mapping[int, int] = {near: store.row(key(1), near=near) for near in range(4)}
    assert rows == {0: 0, 1: 0, 2: 2, 3: 0}

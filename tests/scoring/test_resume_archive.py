"""A run goes on with the archive that it began with, and with no other."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from resuming import Killed, run_of, write_film

from cxrbatch.errors import UsageError
from cxrbatch.files import RUN_STATE, partial_folder
from cxrbatch.results.columns import PROVENANCE_KEY
from cxrbatch.results.table import open_table
from cxrbatch.scoring.existing_tables import TRIED_AGAIN


@pytest.fixture
def one_file(tmp_path: Path) -> Callable[[str, int], Path]:
    """Writes an archive that is one file: a zip of films, or a film."""

    def write(name: str, seed: int) -> Path:
        path = tmp_path / "single" / name
        write_film(path.with_suffix(".film"), seed)
        film = path.with_suffix(".film").read_bytes()
        path.with_suffix(".film").unlink()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as packed:
                for number in range(20):
                    packed.writestr(f"{path.stem}{number:02d}.png", film)
        else:
            path.write_bytes(film)
        return path

    return write


def test_members_of_a_container_that_was_replaced_are_not_told_as_damaged(
    tiny_checkpoint: Path, tmp_path: Path, one_file: Callable[[str, int], Path]
) -> None:
    output = tmp_path / "r.parquet"
    run = run_of(one_file("a.zip", 1).parent, output, tiny_checkpoint)
    with pytest.raises(Killed):
        run(stop_after=9)
    one_file("a.zip", 2)
    assert run().counts.outcomes == {"scored": 8, "unreadable_file": 12}
    assert run(update=True).counts.outcomes == {"scored": 20}


@pytest.mark.parametrize("outcome", sorted(TRIED_AGAIN))
def test_an_update_asks_the_rows_what_failed(
    outcome: str, tiny_checkpoint: Path, tmp_path: Path, one_file: Callable[[str, int], Path]
) -> None:
    output = tmp_path / "r.parquet"
    run = run_of(one_file("a.zip", 1), output, tiny_checkpoint)
    run()
    whole = output.read_bytes()
    table, made = pq.read_table(output), open_table(output).provenance
    at = table.column_names.index("outcome")
    failed = table.set_column(at, "outcome", pa.array(20 * [outcome]))
    pq.write_table(failed.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), output)
    assert run(update=True).read == 20
    assert output.read_bytes() == whole


@pytest.mark.parametrize(("first", "second"), [("a.zip", "b.zip"), ("a.png", "b.png")])
def test_a_run_of_one_file_is_not_gone_on_with_for_another(
    tiny_checkpoint: Path,
    tmp_path: Path,
    one_file: Callable[[str, int], Path],
    first: str,
    second: str,
) -> None:
    archives = [one_file(first, 1), one_file(second, 2), tmp_path / "single"]
    output = tmp_path / "r.parquet"
    runs = [run_of(archive, output, tiny_checkpoint) for archive in archives]
    with pytest.raises(Killed):
        runs[0](stop_after=1)
    for other, name in zip(runs[1:], (second, "the folder itself"), strict=True):
        with pytest.raises(UsageError, match=rf"differs in the archive \({first}, now {name}\);"):
            other()
    runs[0]()
    paths = open_table(output).read(["path"])["path"].to_pylist()
    assert {path.partition("!")[0] for path in paths} == {first}
    for update in (False, True):
        with pytest.raises(UsageError, match=rf"exists and differs in the archive \({first}, now"):
            runs[1](update=update)


def test_an_archive_that_is_a_changed_file_is_not_gone_on_with(
    tiny_checkpoint: Path, tmp_path: Path, one_file: Callable[[str, int], Path]
) -> None:
    output = tmp_path / "r.parquet"
    run = run_of(one_file("a.zip", 1), output, tiny_checkpoint)
    with pytest.raises(Killed):
        run(stop_after=9)
    archive = one_file("a.zip", 2)
    run = run_of(archive, output, tiny_checkpoint)
    with pytest.raises(UsageError, match="the archive's size or time"):
        run()
    run(overwrite=True)
    # A finished table of it is brought up to date, as that of a folder is.
    os.utime(archive, ns=(0, 5))
    run = run_of(archive, output, tiny_checkpoint)
    with pytest.raises(UsageError, match=r"archive's size.*give --update"):
        run()
    assert run(update=True).read == 20
    assert run().read == 0


def test_a_run_that_does_not_name_its_archive_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, one_file: Callable[[str, int], Path]
) -> None:
    output = tmp_path / "r.parquet"
    run = run_of(one_file("a.zip", 1), output, tiny_checkpoint)
    with pytest.raises(Killed):
        run(stop_after=9)
    state = partial_folder(output) / RUN_STATE
    older = json.loads(state.read_bytes())
    del older["fingerprint"]["archive"]
    state.write_text(json.dumps(older))
    with pytest.raises(UsageError, match=r"unfinished run that differs in the archive \(unknown"):
        run()


def test_a_table_that_does_not_name_its_archive_is_updated(
    tiny_checkpoint: Path, tmp_path: Path, one_file: Callable[[str, int], Path]
) -> None:
    output = tmp_path / "r.parquet"
    run = run_of(one_file("a.zip", 1).parent, output, tiny_checkpoint)
    run()
    table = pq.read_table(output)
    made = dict(open_table(output).provenance)
    del made["archive"]
    made["manifest_sha256"] = "of an earlier walk"
    older = table.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)})
    pq.write_table(older, output)
    assert run(update=True).read == 0
    assert open_table(output).provenance["archive"] == "."


def test_a_file_of_any_date_has_a_row(
    tiny_checkpoint: Path, tmp_path: Path, one_file: Callable[[str, int], Path]
) -> None:
    later = 13_600_000_000  # in the year 2400, which 64 bits of nanoseconds do not reach
    film = one_file("later.png", 1)
    packed = one_file("later.zip", 2)
    os.utime(film, (later, later))
    os.utime(packed, (later, later))
    assert film.stat().st_mtime_ns == later * 10**9
    output = tmp_path / "r.parquet"
    run_of(film.parent, output, tiny_checkpoint)()
    times = open_table(output).read(["file_modified_ns"])["file_modified_ns"].to_pylist()
    assert times == 21 * [2**63 - 1]

"""An update reads what changed, and ends with the bytes of a run from the start."""

import json
import os
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image

from cxrbatch.errors import UsageError
from cxrbatch.files import RUN_STATE, partial_folder
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.scoring.plan import FaultLog
from cxrbatch.scoring.run import Progress, ScoringOptions, Summary
from cxrbatch.scoring.score import score_archive
from cxrbatch.workers.worker import WorkerFault

FILES = 40


class Killed(BaseException):
    """In place of the end of a process."""


class Stop(Progress):
    """Progress that ends a run after some files."""

    def __init__(self, after: int | None) -> None:
        self.left = after

    def advance(self, files: int) -> None:
        """Stop at the chosen file."""
        if self.left is not None:
            self.left -= files
            if self.left == 0:
                raise Killed


def write_film(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 20 + seed % 9), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path, "PNG")


def write_zip(path: Path, members: dict[str, int]) -> None:
    """A container of films, each by its seed, in the order given and not in that of names."""
    film = path.with_suffix(".film")
    with zipfile.ZipFile(path, "w") as container:
        for name, seed in members.items():
            write_film(film, seed)
            container.write(film, name)
    film.unlink()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    for number in range(FILES):
        write_film(folder / f"{number % 4}" / f"{number:02d}", number)
    write_zip(folder / "1" / "changed.zip", {"b": 50, "a": 51})
    write_zip(folder / "1" / "kept.zip", {"b/a": 52, "b": 53, "a": 54})
    frames = Path(pydicom.data.get_testdata_file("examples_ybr_color.dcm"))
    (folder / "2" / "frames.dcm").write_bytes(frames.read_bytes())
    return folder


@pytest.fixture
def score(archive: Path, tiny_checkpoint: Path) -> Callable[..., Summary]:
    def run(
        output: Path, *, update: bool = False, stop: int | None = None, batch_size: int = 8
    ) -> Summary:
        options = ScoringOptions(
            workers=0, batch_size=batch_size, precision="fp32", device="cpu", commit_every=7
        )
        return score_archive(
            archive,
            output,
            checkpoint=tiny_checkpoint,
            options=options,
            progress=Stop(stop),
            update=update,
        )

    return run


def change(archive: Path) -> int:
    """Add, change and remove files; give the number that is to be read."""
    (archive / "0" / "00").unlink()
    (archive / "3" / "39").unlink()
    (archive / "1" / "17").unlink()
    write_film(archive / "0" / "!first", 101)
    write_film(archive / "1" / "05+", 102)
    write_film(archive / "2.new" / "a", 103)
    write_film(archive / "4" / "last", 104)
    write_film(archive / "2" / "22", 105)
    os.utime(archive / "3" / "03", ns=(0, 5))
    (archive / "3" / "07").rename(archive / "3" / "07\\x")
    write_zip(archive / "1" / "changed.zip", {"c": 55, "b": 50, "a": 51})
    return 7 + 3


def test_ends_with_the_bytes_of_a_run_from_the_start(
    score: Callable[..., Summary], archive: Path, tmp_path: Path
) -> None:
    score(tmp_path / "r.parquet")
    to_read = change(archive)
    summary = score(tmp_path / "r.parquet", update=True)
    score(tmp_path / "whole.parquet")
    assert summary.read == to_read
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_small_row_groups_give_the_same(
    score: Callable[..., Summary],
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cxrbatch.scoring.table_writer._ROW_GROUP", 6)
    score(tmp_path / "r.parquet")
    to_read = change(archive)
    assert score(tmp_path / "r.parquet", update=True).read == to_read
    score(tmp_path / "whole.parquet")
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_update_goes_on_too(
    score: Callable[..., Summary], archive: Path, tmp_path: Path
) -> None:
    score(tmp_path / "r.parquet")
    before = (tmp_path / "r.parquet").read_bytes()
    to_read = change(archive)
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", update=True, stop=20)
    assert (tmp_path / "r.parquet").read_bytes() == before
    assert score(tmp_path / "r.parquet", update=True).read < to_read
    score(tmp_path / "whole.parquet")
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_nothing_new_is_nothing_to_do(
    score: Callable[..., Summary], archive: Path, tmp_path: Path
) -> None:
    score(tmp_path / "r.parquet", update=True)  # where there is no table, all is new
    before = (tmp_path / "r.parquet").stat()
    assert score(tmp_path / "r.parquet", update=True).read == 0
    assert os.path.samestat((tmp_path / "r.parquet").stat(), before)


def test_an_unfinished_run_is_finished_first(
    score: Callable[..., Summary], archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", stop=20)
    change(archive)
    score(tmp_path / "r.parquet", update=True)
    score(tmp_path / "whole.parquet")
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_what_the_disk_refused_is_tried_again(
    score: Callable[..., Summary], archive: Path, tmp_path: Path
) -> None:
    kept = (archive / "1" / "05").read_bytes()
    state = (archive / "1" / "05").stat()
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", stop=1)
    (archive / "1" / "05").unlink()
    assert score(tmp_path / "r.parquet").counts.outcomes["unreadable_file"] == 1
    (archive / "1" / "05").write_bytes(kept)
    os.utime(archive / "1" / "05", ns=(0, state.st_mtime_ns))
    summary = score(tmp_path / "r.parquet", update=True)
    assert (summary.read, summary.counts.outcomes["unreadable_file"]) == (1, 0)


def test_what_may_be_the_machine_s_doing_is_tried_again(
    score: Callable[..., Summary],
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = {
        b"1/05": Outcome.DECODER_CRASHED,
        b"2/10": Outcome.OUT_OF_MEMORY,
        b"2/22": Outcome.READER_KILLED,
    }
    read = FileReader.read

    def lose(reader: FileReader, file: ArchiveFile) -> LoadedFile:
        if file.path in lost:
            return reader.failed(file, lost[file.path], "the process ended")
        return read(reader, file)

    with monkeypatch.context() as patched:
        patched.setattr(FileReader, "read", lose)
        score(tmp_path / "r.parquet")
        before = (tmp_path / "r.parquet").read_bytes()
        # Where it is the file's doing after all, the table stays as it is.
        assert score(tmp_path / "r.parquet", update=True).read == len(lost)
        assert (tmp_path / "r.parquet").read_bytes() == before
    summary = score(tmp_path / "r.parquet", update=True)
    score(tmp_path / "whole.parquet")
    assert summary.read == len(lost)
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_update_does_not_believe_the_culprits_of_an_unfinished_run(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        score(tmp_path / "r.parquet", stop=8)
    with closing(FaultLog(partial_folder(tmp_path / "r.parquet"))) as culprits:
        culprits.add(30, WorkerFault(Outcome.DECODER_CRASHED, "the process ended", lasting=True))
    assert score(tmp_path / "r.parquet").counts.outcomes["decoder_crashed"] == 1
    assert score(tmp_path / "r.parquet", update=True).counts.outcomes["decoder_crashed"] == 0
    score(tmp_path / "whole.parquet")
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_another_recipe_is_no_update(score: Callable[..., Summary], tmp_path: Path) -> None:
    score(tmp_path / "r.parquet")
    with pytest.raises(UsageError, match="differs in batch size"):
        score(tmp_path / "r.parquet", update=True, batch_size=4)


def test_an_older_table_is_updated_to_the_bytes_of_today(
    score: Callable[..., Summary],
    archive: Path,
    tmp_path: Path,
    write_as_older: Callable[..., None],
) -> None:
    """The archive's films name no study, so that the keys of a run from the start are empty too."""
    output = tmp_path / "r.parquet"
    score(output)
    write_as_older(output)
    with pytest.raises(UsageError, match=r"schema version \(2\.1, now 2\.3\).*--update"):
        score(output)
    summary = score(output, update=True)
    assert (summary.read, summary.older_schema) == (0, "2.1")
    summary = score(tmp_path / "whole.parquet")
    assert summary.older_schema == ""
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_stopped_update_of_an_older_table_goes_on(
    score: Callable[..., Summary],
    archive: Path,
    tmp_path: Path,
    write_as_older: Callable[..., None],
) -> None:
    output = tmp_path / "r.parquet"
    score(output)
    write_as_older(output)
    to_read = change(archive)
    with pytest.raises(Killed):
        score(output, update=True, stop=20)
    summary = score(output, update=True)
    assert summary.read <= to_read
    assert summary.older_schema == "2.1"
    score(tmp_path / "whole.parquet")
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_run_that_an_older_version_began_is_refused_by_name(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    output = tmp_path / "r.parquet"
    with pytest.raises(Killed):
        score(output, stop=20)
    state = partial_folder(output) / RUN_STATE
    plan = json.loads(state.read_bytes())
    plan["fingerprint"]["schema_version"] = "2.1"
    state.write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=r"unfinished run .* schema version \(2\.1, now 2\.3\)"):
        score(output)

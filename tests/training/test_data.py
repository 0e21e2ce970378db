"""Labelled files to arrays: nothing mixed up, nothing unreadable hidden, nothing decoded twice."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from films import write_film
from PIL import Image
from poisoned_reader import PoisonedInputReader, RefusingInputReader

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.sample.archive_writer import write_sample
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.training import cache
from cxrbatch.training import store as cache_store
from cxrbatch.training.cache import (
    DecodedInputs,
    InputReader,
    UnreadableFile,
    cache_file,
    decode_files,
    prepare_inputs,
)
from cxrbatch.training.dataset import subsets_of
from cxrbatch.training.store import copy_rows, open_store, remove_stores
from cxrbatch.workers.worker import WorkerLimits

RECIPE = Recipe(size=32)
SECRET = bytes(range(32))
FEW = WorkerLimits(seconds=2.0, memory=1 << 30)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrbatch.training.cache.patient_secret", lambda: SECRET)


@dataclass(frozen=True)
class Filled:
    """What one pass over files gave."""

    outcomes: list[Outcome]
    values: np.ndarray
    patients: list[str | None]


def listed(paths: Sequence[Path]) -> list[ArchiveFile]:
    return [ArchiveFile(os.fsencode(path), 0) for path in paths]


def prepared(paths: Sequence[Path], folder: Path, *, workers: int = 0) -> DecodedInputs:
    return prepare_inputs(
        listed(paths), recipe=RECIPE, workers=workers, folder=folder, progress=lambda n: None
    )


def filled(
    paths: Sequence[Path], folder: Path, *, reader: type[InputReader], recipe: Recipe = RECIPE
) -> Filled:
    """As `prepared`, with a reader in a process that it may end."""
    with open_store(cache_file(folder, recipe, secret=SECRET)) as held:
        made = reader(recipe, held.place, held.count, held.opened_ns, SECRET)
        rows, outcomes, patients = decode_files(
            held, listed(paths), reader=made, workers=1, limits=FEW, progress=lambda n: None
        )
        return Filled(outcomes, held.in_order(rows), patients)


def film(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 50), level, np.uint8)).save(path, format="PNG")
    return path


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Six flat films, the level of film i is 20 i."""
    return [film(tmp_path / f"{i}.png", 20 * i) for i in range(6)]


def levels(values: np.ndarray) -> list[int]:
    assert values.dtype == np.uint8
    assert values.shape[1:] == (32, 32)
    return [int(image.min()) for image in values if image.min() == image.max()]


@pytest.mark.parametrize("workers", [0, 2])
def test_inputs_are_in_the_order_of_the_files(
    tmp_path: Path, films: list[Path], workers: int
) -> None:
    inputs = prepared(films, tmp_path / "cache", workers=workers)
    assert levels(inputs.values) == [0, 20, 40, 60, 80, 100]
    assert inputs.readable.all()
    assert isinstance(inputs.values, np.memmap)


def test_every_kind_of_file_is_what_a_reading_by_itself_gives(tmp_path: Path) -> None:
    write_sample(tmp_path / "films")
    paths = sorted(path for path in (tmp_path / "films").rglob("*") if path.is_file())
    inputs = prepared(paths, tmp_path / "cache")
    assert len({*inputs.outcomes}) > 3
    several = 0
    for number, path in enumerate(paths):
        reading, *later = read_radiographs(path)  # the first frame stands for the file
        several += bool(later)
        assert inputs.outcomes[number] is reading.outcome
        if reading.image is not None and reading.outcome is Outcome.SCORED:
            assert np.array_equal(inputs.values[number], RECIPE.prepare(reading.image))
        else:
            assert not inputs.readable[number]
            assert not inputs.values[number].any()
    assert several


def test_a_second_run_decodes_nothing_whatever_the_names(tmp_path: Path, films: list[Path]) -> None:
    (tmp_path / "text").write_text("no image")
    prepared([*films, tmp_path / "text"], tmp_path / "cache")
    moved = [path.rename(tmp_path / f"moved {path.name}") for path in reversed(films)]
    again = filled([*moved, tmp_path / "text"], tmp_path / "cache", reader=RefusingInputReader)
    assert levels(again.values)[:6] == [100, 80, 60, 40, 20, 0]
    assert again.outcomes == [Outcome.SCORED] * 6 + [Outcome.NOT_AN_IMAGE]


def test_what_has_changed_is_decoded_anew(tmp_path: Path, films: list[Path]) -> None:
    prepared(films, tmp_path / "cache")
    before = os.stat(films[2])
    film(films[2], 222)
    os.utime(films[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert levels(prepared(films, tmp_path / "cache").values) == [0, 20, 222, 60, 80, 100]
    film(films[2], 40)
    assert levels(prepared(films, tmp_path / "cache").values) == [0, 20, 40, 60, 80, 100]


def test_another_recipe_or_reader_finds_nothing_of_the_first(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(films, tmp_path / "cache")
    padded = Recipe(size=32, geometry="pad")
    crashed = [Outcome.DECODER_CRASHED]
    refusing = RefusingInputReader
    found = filled(films[:1], tmp_path / "cache", reader=refusing, recipe=padded)
    assert found.outcomes == crashed
    assert filled(films[:1], tmp_path / "cache", reader=refusing).outcomes == [Outcome.SCORED]
    monkeypatch.setattr(cache, "reading_version", lambda: "another")
    assert filled(films[:1], tmp_path / "cache", reader=refusing).outcomes == crashed


@pytest.mark.parametrize("module", ["display.py", "codecs/png.py", "dicom/header.py"])
def test_the_version_of_the_reader_follows_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    folder = Path(str(cache.reading.__file__)).parent
    shutil.copytree(folder, tmp_path / "reading", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache.reading, "__file__", str(tmp_path / "reading" / "__init__.py"))
    version = cache.reading_version.__wrapped__
    unchanged = version()
    assert unchanged == cache.reading_version()
    (tmp_path / "reading" / module).rename(tmp_path / "reading" / "renamed.py")
    renamed = version()
    assert renamed != unchanged
    (tmp_path / "reading" / "renamed.py").rename(tmp_path / "reading" / module)
    assert version() == unchanged
    with (tmp_path / "reading" / module).open("a") as source:
        source.write("# changed\n")
    assert version() not in (unchanged, renamed)


def test_patients_are_known_by_key_and_from_the_cache_too(tmp_path: Path) -> None:
    ids = ["a", "b", "a", None, "ANON", "a"]
    issuers = [None, None, None, None, None, "clinic"]
    paths = [
        write_film(tmp_path / f"{i}.dcm", np.full((40, 50), 20 * i), patient_id=p, issuer=issuer)
        for i, (p, issuer) in enumerate(zip(ids, issuers, strict=True))
    ]
    patients = prepared(paths, tmp_path / "cache").patients
    a, b, again, absent, placeholder, elsewhere = patients
    assert a == again
    assert absent is placeholder is None
    assert len({a, b, elsewhere, None}) == 4
    assert filled(paths, tmp_path / "cache", reader=RefusingInputReader).patients == [*patients]


@pytest.mark.parametrize("lasting", [True, False])
def test_keys_of_another_secret_are_never_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    """Without a secret that lasts each run has its own, and only the last one's records stay."""
    path = write_film(tmp_path / "a.dcm", np.full((40, 50), 20), patient_id="a")
    secrets = (b"1" * 32, b"2" * 32) if lasting else (None, None)
    keys = []
    for secret in secrets:
        monkeypatch.setattr("cxrbatch.training.cache.patient_secret", lambda key=secret: key)
        keys += prepared([path], tmp_path / "cache").patients
    assert None not in keys
    assert keys[0] != keys[1]
    assert len(list((tmp_path / "cache").glob("*.inputs"))) == (2 if lasting else 1)


def test_equal_bytes_have_an_input_each(tmp_path: Path, films: list[Path]) -> None:
    paths = [films[1], shutil.copy(films[1], tmp_path / "copy"), films[3], films[1]]
    for _ in range(2):
        assert levels(prepared(paths, tmp_path / "cache").values) == [20, 20, 60, 20]


def test_a_spoilt_entry_is_decoded_anew(tmp_path: Path, films: list[Path]) -> None:
    prepared(films, tmp_path / "cache")
    file = cache_file(tmp_path / "cache", RECIPE, secret=SECRET).file
    spoilt = bytearray(file.read_bytes())
    spoilt[128 + 3 * (128 + 32 * 32) + 500] ^= 1
    file.write_bytes(spoilt)
    for _ in range(2):
        assert levels(prepared(films, tmp_path / "cache").values) == [0, 20, 40, 60, 80, 100]


def test_a_poisonous_file_costs_itself_alone(tmp_path: Path, films: list[Path]) -> None:
    (tmp_path / "crash.png").write_bytes(b"crash")
    (tmp_path / "hang.png").write_bytes(b"hang")
    _let_the_clock_pass(tmp_path)
    paths = [*films[:2], tmp_path / "crash.png", films[2], tmp_path / "hang.png", films[3]]
    found = filled(paths, tmp_path / "cache", reader=PoisonedInputReader)
    bad = [Outcome.DECODER_CRASHED, Outcome.DECODER_TIMEOUT]
    good = Outcome.SCORED
    assert found.outcomes == [good, good, bad[0], good, bad[1], good]
    assert levels(found.values) == [0, 20, 0, 40, 0, 60]
    # Their outcomes are kept: by itself the reader would say that they are no images.
    again = filled(paths, tmp_path / "cache", reader=InputReader)
    assert again.outcomes == found.outcomes
    assert levels(again.values) == levels(found.values)


def _let_the_clock_pass(folder: Path) -> None:
    """Until a file's times can be told from now."""
    (folder / "mark").touch()
    while time.time_ns() - os.stat(folder / "mark").st_ctime_ns < 50_000_000:
        os.sched_yield()
    (folder / "mark").unlink()


def test_what_cannot_be_opened_is_an_outcome_and_tried_again(
    tmp_path: Path, films: list[Path]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    gone = tmp_path / "gone.png"
    paths = [films[1], gone, tmp_path / "fifo", tmp_path, films[2]]
    inputs = prepared(paths, tmp_path / "cache")
    assert inputs.outcomes[1:4] == (Outcome.UNREADABLE_FILE,) * 3
    assert levels(inputs.values) == [20, 0, 0, 0, 40]
    assert inputs.readable.tolist() == [True, False, False, False, True]
    film(gone, 99)
    assert levels(prepared(paths, tmp_path / "cache").values) == [20, 99, 0, 0, 40]


def test_unreadable_files_are_named_with_their_outcome(tmp_path: Path, films: list[Path]) -> None:
    whole = films[3].read_bytes()
    films[3].write_bytes(whole[: len(whole) // 2])
    films[5].write_text("a text, whatever its name says")
    inputs = prepared(films, tmp_path / "cache")
    files = [LabelledFile(path.name, "A") for path in films]
    assert inputs.unreadable(files) == [
        UnreadableFile("3.png", Outcome.TRUNCATED),
        UnreadableFile("5.png", Outcome.NOT_AN_IMAGE),
    ]


def test_sides_hold_their_images_in_order(tmp_path: Path, films: list[Path]) -> None:
    films[4].write_text("no image")
    inputs = prepared(films, tmp_path / "cache")
    sides = ("test", "train", "val", "train", "val", "train")
    files = [LabelledFile(f"{i}", "AB"[i % 2], None, side) for i, side in enumerate(sides)]
    found = subsets_of(files, inputs, classes=("B", "A"))

    def greys(name: str) -> list[int]:
        return levels(found[name].images(np.arange(len(found[name]))))

    assert greys("train") == [20, 60, 100]
    assert found["train"].truth.tolist() == [0, 0, 0]
    assert greys("val") == [40]
    assert found["val"].truth.tolist() == [1]
    assert found["test"].truth.tolist() == [1]
    assert len(subsets_of(files[:0], prepared([], tmp_path / "c"), classes=("A",))["val"]) == 0


def test_what_is_written_to_inputs_does_not_reach_the_cache(
    tmp_path: Path, films: list[Path]
) -> None:
    prepared(films, tmp_path / "cache").values[:] = 7
    assert levels(prepared(films, tmp_path / "cache").values) == [0, 20, 40, 60, 80, 100]


def test_a_full_disk_is_one_line_while_inputs_are_copied(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = prepared(films, tmp_path / "cache").values
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(cache_store.tempfile, "TemporaryFile", lambda dir: full)
        with pytest.raises(CxrbatchError, match=r"cannot use the cache .*No space left"):
            copy_rows(values, np.array([3, 1]), folder=tmp_path)


def test_forgetting_leaves_nothing(tmp_path: Path, films: list[Path]) -> None:
    prepared(films, tmp_path / "cache")
    remove_stores(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_inputs_are_those_of_the_recipe(tmp_path: Path) -> None:
    """A tall white film on a padded square keeps its black borders; JPEG is read too."""
    Image.fromarray(np.full((64, 32), 255, np.uint8)).save(tmp_path / "film.jpeg")
    shutil.move(tmp_path / "film.jpeg", tmp_path / "film.dcm")
    padded = Recipe(size=32, geometry="pad")
    found = filled([tmp_path / "film.dcm"], tmp_path / "c", reader=InputReader, recipe=padded)
    (image,) = found.values
    assert image[:, 8:24].min() == 255
    assert image[:, :8].max() == image[:, 24:].max() == 0

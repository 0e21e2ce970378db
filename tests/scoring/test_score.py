"""The public call: paths of any type, arguments in its errors, a bar or none."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrbatch.errors import CheckpointError, CxrbatchError, UsageError, naming_arguments
from cxrbatch.results.table import open_table
from cxrbatch.scoring.run import Progress, ScoringOptions
from cxrbatch.scoring.score import ProgressBar, score


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 70), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "note.txt").write_text("a note")
    return folder


def test_strings_are_paths_and_nothing_is_printed(
    archive: Path, tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = archive.parent / "r.parquet"
    options: dict[str, Any] = {"checkpoint": str(tiny_checkpoint), "device": "cpu"}
    summary = score(str(archive), str(output), workers=1, progress=False, **options)
    assert (summary.read, summary.images, summary.counts.rows) == (4, 3, 4)
    assert open_table(output).rows == 4
    assert score(archive, output, workers=0, progress=False, **options).read == 0
    assert capfd.readouterr() == ("", "")


def test_progress_is_reported_to_an_object(archive: Path, tiny_checkpoint: Path) -> None:
    class Listed(Progress):
        def __init__(self) -> None:
            self.events: list[str] = []

        def loaded(self) -> None:
            self.events.append("loaded")

        def start(self, files: int, *, done: int) -> None:
            self.events.append(f"start {done} of {files}")

        def shard_done(self, files: int) -> None:
            self.events.append(f"shard {files}")

        def close(self) -> None:
            self.events.append("close")

    listed = Listed()
    output = archive.parent / "r.parquet"
    score(archive, output, checkpoint=tiny_checkpoint, commit_every=3, workers=0, progress=listed)
    assert listed.events == ["loaded", "start 0 of 4", "shard 3", "shard 1", "close"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"overwrite": True, "update": True}, "update=True keeps what overwrite=True replaces"),
        ({"engine": "x"}, "engine 'x' is unknown"),
        ({"ray_address": "auto"}, "ray_address goes with engine ray"),
        ({"engine": "ray", "backend": "openvino"}, "backend openvino goes with engine local"),
        ({"batch_size": 0}, "batch_size is 0; give a whole number from 1"),
        *(({"batch_size": size}, "batch_size is") for size in (1.5, "x", None, True, math.nan)),
        *(({"workers": count}, "workers is") for count in (-1, 0.0, "2", False)),
        *(({"deadline": time}, "deadline is") for time in (0, math.nan, math.inf, "60", None)),
        ({"deadline": 86_401}, "deadline is 86401; give a number from 0.1 to 86400"),
        *(({"max_pixels": count}, "max_pixels is") for count in (0, 1e6, "1")),
        ({"commit_every": 0}, "commit_every is 0"),
        *(({"checkpoint": path}, "checkpoint") for path in (5, "", "a\0b", b"a")),
        *(({"calibration": path}, "calibration") for path in (5, "", "a\0b")),
        *(({"output": path}, "output") for path in (None, "", "a\0b", "\ud800", "x.csv")),
        *(({"modality": codes}, "modality is no text") for codes in (5, [5], None, ["MG", None])),
        *(({name: 1}, f"^{name} is 1; give True") for name in ("follow_links", "fast_decode")),
        *(({name: "no"}, f"^{name} is 'no'; give True") for name in ("overwrite", "update")),
        *(({"progress": value}, "progress is neither") for value in (None, 1, print)),
        *(
            ({"shard": part}, "is not like '?2/8")
            for part in (5, None, "1", "0/2", "1/" + "9" * 5000)
        ),
        ({"engine": ["ray"]}, "engine .* is unknown"),
        ({"engine": "ray", "ray_address": 5}, "ray_address is 5"),
        ({"backend": ["torch"]}, "backend is"),
        ({"device": 0}, "device is 0; give a text"),
        ({"backend": "other"}, "backend is 'other'; choose torch, openvino"),
        ({"precision": "fp8"}, "precision is 'fp8'; choose auto"),
        ({"shard": "3/2"}, "'3/2' is not like 2/8"),
        ({"precision": "fp16", "device": "cpu"}, "^precision fp16 needs a GPU"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_errors_name_arguments(
    arguments: dict[str, Any], words: str, archive: Path, tiny_checkpoint: Path
) -> None:
    output = archive.parent / "r.parquet"
    plain = {"output": output, "checkpoint": tiny_checkpoint, "workers": 0, "progress": False}
    with pytest.raises(UsageError, match=words) as raised:
        score(archive, **{**plain, **arguments})
    assert "--" not in str(raised.value)
    assert len(str(raised.value)) < 300
    assert not output.exists()
    assert not output.with_name("r.parquet.partial").exists()


def test_a_film_of_the_archive_is_never_replaced(archive: Path, tiny_checkpoint: Path) -> None:
    film = next(path for path in sorted(archive.rglob("*")) if path.is_file())
    data = film.read_bytes()
    for output in (film, archive / "sub" / ".." / film.relative_to(archive)):
        (archive / "sub").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=r"is a file of .* and no table; choose another name"):
            score(archive, output, checkpoint=tiny_checkpoint, overwrite=True, progress=False)
    assert film.read_bytes() == data
    inside = archive / "r.parquet"
    for _ in range(2):
        score(archive, inside, checkpoint=tiny_checkpoint, overwrite=True, progress=False)


@pytest.mark.parametrize(
    ("place", "words"), [("", "empty path"), (None, "NoneType"), ("a\0b", "NUL"), (b"a", "bytes")]
)
def test_what_is_no_path_is_no_archive(tmp_path: Path, place: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"^archive .*{words}"):
        score(place, tmp_path / "r.parquet", progress=False)


def test_one_text_is_one_modality_and_numbers_of_numpy_are_numbers(
    archive: Path, tiny_checkpoint: Path
) -> None:
    output = archive.parent / "r.parquet"
    given: list[dict[str, Any]] = [
        {"modality": "mg", "batch_size": np.int64(4), "deadline": np.float32(60), "workers": 0},
        {"modality": iter(["MG"]), "batch_size": 4, "deadline": 60, "workers": np.uint8(0)},
    ]
    for arguments in given:
        score(archive, output, checkpoint=tiny_checkpoint, progress=False, **arguments)
    made = open_table(output).provenance
    assert made["modalities"] == ["CR", "DX", "MG", "RG"]
    assert made["seconds_per_file"] == 60.0


def test_an_existing_output_names_its_remedy(archive: Path, tiny_checkpoint: Path) -> None:
    output = archive.parent / "r.parquet"
    output.write_text("precious")
    with pytest.raises(UsageError, match=r"give overwrite=True$"):
        score(archive, output, checkpoint=tiny_checkpoint, workers=0, progress=False)
    assert output.read_text() == "precious"


def test_only_options_are_renamed_in_errors() -> None:
    text = "choose another -o, a smaller --batch-size (ulimit -v) or pip install x--y"
    with pytest.raises(CheckpointError) as raised, naming_arguments():
        raise CheckpointError(text)
    expected = "choose another output, a smaller batch_size (ulimit -v) or pip install x--y"
    assert str(raised.value) == expected
    with pytest.raises(ValueError, match="--kept"), naming_arguments():
        raise ValueError("--kept")
    assert issubclass(CheckpointError, CxrbatchError)


def test_the_options_of_score_are_those_of_the_dataclass() -> None:
    import inspect

    defaults = {name: p.default for name, p in inspect.signature(score).parameters.items()}
    options = ScoringOptions()
    for name in set(defaults) & set(ScoringOptions.__slots__) - {"workers"}:
        assert defaults[name] == getattr(options, name), name


def test_the_call_imports_no_torch_before_it_works() -> None:
    code = (
        "import sys; from cxrbatch.scoring.score import score; "
        "print({'torch', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_a_terminal_the_bar_writes_only_what_is_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    bar = ProgressBar()
    bar.found(3)
    bar.start(30, done=10)
    bar.advance(1)
    bar.close()
    expected = "going on with an unfinished run: 10 of 30 files are done, 20 are left\n"
    assert capfd.readouterr().err == expected

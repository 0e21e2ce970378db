"""`cxrbatch train` from end to end: on a small archive of PNGs, and refusing bad input."""

import csv
import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.model.checkpoint import file_sha256, load_checkpoint, read_card
from cxrbatch.results.table import open_table
from cxrbatch.training.scored import write_results

PngMaker = Callable[[Path, np.ndarray], Path]
FAST = ["--size", "32", "--epochs", "1", "--draws", "8", "--batch-size", "8", "--workers", "0"]
FAST += ["--device", "cpu"]
NUMBERS = ["path", "prediction", "logit_dark lung", "p_white lung", "heatmaps", "image_hash"]


def labels_csv(
    level_archive: Path, folder: Path, *, split: Callable[[str, int], str], extra: str = ""
) -> Path:
    """A CSV file of the archive's images with a split; `extra` is appended."""
    lines = ["path,label,split"]
    for path in sorted(level_archive.glob("*/*.png")):
        lines.append(f"{path},{path.parent.name},{split(path.parent.name, int(path.stem))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n" + extra)
    return folder / "labels.csv"


def ordinary(label: str, number: int) -> str:
    return "train" if number < 12 else "val" if number < 16 else "test"


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, which must be the only one that is an error."""
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]


def test_class_folders_become_a_checkpoint(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.safetensors"
    options = [
        *FAST,
        "--epochs",
        "2",
        "--draws",
        "24",
        "--name",
        "lungs",
        "--classes",
        "white lung,dark lung",
    ]
    assert main(["train", str(level_archive), "-o", str(output), *options]) == 0
    printed = capsys.readouterr()
    assert "validation (n = 4, 4 patients or pictures): balanced accuracy" in printed.out
    assert "test (n = 4, " in printed.out
    assert f"checkpoint: '{output}'" in printed.out
    assert "not a medical device" in printed.out
    assert "control, border only" in printed.out
    assert "epoch 2: loss" in printed.err
    assert "warning: no patient column" in printed.err
    checkpoint = load_checkpoint(output)
    assert checkpoint.card.name == "lungs"
    assert checkpoint.card.classes == ("white lung", "dark lung")
    assert checkpoint.card.recipe.size == 32
    training = checkpoint.card.training
    assert training["images"]["train"] == {"white lung": 16, "dark lung": 16}
    assert training["validation"]["macro_auc"]["value"] == 1.0
    assert len(training["history"]) == 2
    assert str(level_archive) not in checkpoint.card.to_json()
    assert set(checkpoint.card.operating_points["dark lung"]) == {"youden", "sensitive", "specific"}
    assert checkpoint.features is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.augmented.png",
        "model.curves.svg",
        "model.results.parquet",
        output.name,
        "model.split.csv",
    ]


def test_the_results_table_has_what_score_would_say(level_archive: Path, tmp_path: Path) -> None:
    output, scored = tmp_path / "m.safetensors", tmp_path / "scored.parquet"
    assert main(["train", str(level_archive), "-o", str(output), *FAST]) == 0
    command = ["score", str(level_archive), "-o", str(scored), "--checkpoint", str(output)]
    assert main([*command, "--workers", "0"]) == 0
    table = open_table(tmp_path / "m.results.parquet")
    rows = {row["path"]: row for row in table.read([*NUMBERS, "truth", "split"]).to_pylist()}
    assert len(rows) == table.rows == 8
    assert Counter(row["split"] for row in rows.values()) == {"val": 4, "test": 4}
    whole = {row["path"]: row for row in open_table(scored).read(NUMBERS).to_pylist()}
    for path, row in rows.items():
        assert row["truth"] == path.partition("/")[0]
        assert whole[path] == {name: row[name] for name in NUMBERS}


def test_the_split_of_a_csv_is_kept(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_csv(level_archive, tmp_path, split=ordinary)
    output = tmp_path / "model.safetensors"
    assert main(["train", str(labels), "-o", str(output), *FAST, "--geometry", "pad"]) == 0
    assert "no patient column" not in capsys.readouterr().err
    card = load_checkpoint(output).card
    assert card.name == "model"
    assert card.recipe.geometry == "pad"
    assert card.training["split"]["given"] is True
    assert card.training["images"]["test"] == {"dark lung": 4, "white lung": 4}


def test_a_seed_gives_the_same_bytes_and_a_checkpoint_to_start_from(
    level_archive: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / name / "m.safetensors" for name in ("a", "b", "c")]
    for output, more in zip(outputs, ([], [], ["--init", str(outputs[0])]), strict=True):
        output.parent.mkdir()
        command = ["train", str(level_archive), "-o", str(output), *FAST, "--seed", "5"]
        assert main([*command, *more]) == 0
    first, again, later = outputs
    assert first.read_bytes() == again.read_bytes() != later.read_bytes()
    assert read_card(later).training["initial_weights"] == file_sha256(first)


# Bad input


@pytest.mark.parametrize("ending", ["split.csv", "results.parquet", "curves.svg", "augmented.png"])
def test_what_lies_beside_the_output_is_not_replaced_unasked(
    ending: str, level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / f"model.{ending}"
    mine.write_text("mine")
    command = ["train", str(level_archive), "-o", str(tmp_path / "model.safetensors"), *FAST]
    assert main(command) == 2
    assert f"{mine} exists" in one_error(capsys)
    assert mine.read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0


def test_an_output_that_is_there_is_refused_and_left(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.safetensors"
    output.write_bytes(b"an earlier model")
    assert main(["train", str(level_archive), "-o", str(output), *FAST]) == 2
    assert "--overwrite" in one_error(capsys)
    assert output.read_bytes() == b"an earlier model"
    assert main(["train", str(level_archive), "-o", str(output), *FAST, "--overwrite"]) == 0
    assert load_checkpoint(output).card.name == "model"


@pytest.mark.parametrize("removed", [0, 1], ids=["nothing", "the best checkpoint"])
def test_stopped_between_its_output_and_its_end_it_goes_on_to_the_same(
    removed: int, level_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.safetensors"
    command = ["train", str(level_archive), "-o", str(output), *FAST]
    unlink, left = Path.unlink, iter(range(removed))

    def stopping(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "model.training" and output.exists() and next(left, None) is None:
            raise OSError(errno.EIO, "stopped")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stopping)
    assert main(command) == 1
    monkeypatch.undo()
    before = file_sha256(output)
    monkeypatch.setattr("cxrbatch.training.trainer.Trainer.step", None)  # nothing is trained again
    assert main([*command, "--resume"]) == 0
    assert file_sha256(output) == before
    assert not (tmp_path / "model.training").exists()


@pytest.mark.parametrize("name", ["labels.csv", "labels.split.csv", "labels.mismatches.csv"])
def test_labels_are_not_written_over_even_where_asked(
    name: str, level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_csv(level_archive, tmp_path, split=ordinary).rename(tmp_path / name)
    before = labels.read_bytes()
    output = str(tmp_path / "labels.csv")
    assert main(["train", str(labels), "-o", output, *FAST, "--overwrite"]) == 2
    assert f"{labels} is to be read and would be replaced" in one_error(capsys)
    assert labels.read_bytes() == before


def test_an_image_is_not_written_over_even_where_asked(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shutil.copytree(level_archive, tmp_path / "archive")
    image = archive / "dark lung" / "03.png"
    before = image.read_bytes()
    assert main(["train", str(archive), "-o", str(image), *FAST, "--overwrite"]) == 2
    assert "would be replaced; choose another -o" in one_error(capsys)
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "31"], "--size"),
        (["--name", "x" * 1001], "--name"),
        (["--limit", "two\nlines"], "--limit"),
        (["--epochs", "0"], "--epochs"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--arch", "vit"], "--arch"),
        (["--device", "tpu"], "--device"),
        (["--workers", "-1"], "--workers"),
        (["--surprise"], "--surprise"),
    ],
)
def test_wrong_options_are_wrong_usage(
    level_archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    output = tmp_path / "m.safetensors"
    assert main(["train", str(level_archive), "-o", str(output), *FAST, *options]) == 2
    assert expected in one_error(capsys)
    assert not output.exists()


def test_missing_data_and_a_missing_folder_are_wrong_usage(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tmp_path / "none"), "-o", str(tmp_path / "m")]) == 2
    assert "none" in one_error(capsys)
    assert main(["train", str(level_archive), "-o", str(tmp_path / "none" / "m")]) == 2
    assert "make it first" in one_error(capsys)
    assert main(["train", str(level_archive)]) == 2
    assert "--output" in one_error(capsys)


def test_unusable_labels_fail_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na,A\n")
    output = str(tmp_path / "m.safetensors")
    assert main(["train", str(tmp_path / "labels.csv"), "-o", output, *FAST]) == 1
    assert "has no column 'path'" in one_error(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["train", str(tmp_path / "empty"), "-o", output, *FAST]) == 1
    assert "has no class folders" in one_error(capsys)


def test_labels_that_do_not_fit_the_files_are_listed_whole(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "".join(f"gone{i:02}.png,dark lung,train\n" for i in range(30))
    labels = labels_csv(level_archive, tmp_path, split=ordinary, extra=gone)
    (tmp_path / "extra.png").touch()
    command = ["train", str(labels), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main(command) == 1
    printed = capsys.readouterr().err
    assert printed.count("label without a file: 'gone") == 20
    assert "label without a file: 10 more in " in printed
    assert "30 x label without a file: correct the path, or say with --root" in printed
    listing = tmp_path / "m.mismatches.csv"
    with listing.open() as lines:
        listed = [(row["path"], row["reason"]) for row in csv.DictReader(lines)]
    assert listed == [(f"gone{i:02}.png", "label without a file") for i in range(30)]
    labels_csv(level_archive, tmp_path, split=ordinary)
    (tmp_path / "extra.png").unlink()
    assert main([*command, "--classes", "none"]) == 1
    assert "no image of 'none'" in one_error(capsys)
    assert not listing.exists()


def test_a_file_without_a_label_is_a_warning_and_is_listed(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "films"
    shutil.copytree(level_archive, films)
    (films / "loose\n.png").touch()
    output = tmp_path / "m.safetensors"
    assert main(["train", str(films), "-o", str(output), "--classes", "none"]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "without a label" in x]
    assert line.startswith("warning: images without a label are left out: 1, such as ")
    assert "loose\\n.png" in line
    with (tmp_path / "m.mismatches.csv").open(newline="") as lines:
        (listed,) = csv.DictReader(lines)
    assert listed["path"] == f"{films}/loose\n.png"
    assert listed["reason"] == "file without a label"


def test_several_sources_and_a_cache_that_is_kept(level_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "dark.csv").write_text(
        "path,label\n" + "".join(f"dark lung/{i:02}.png,dark lung\n" for i in range(20))
    )
    names = [f"white lung/{i:02}.png" for i in range(20)]
    pq.write_table(
        pa.table({"path": names, "label": ["white lung"] * 20}), tmp_path / "white.parquet"
    )
    sources = [str(tmp_path / "dark.csv"), str(tmp_path / "white.parquet")]
    kept = [*FAST, "--root", str(level_archive), "--cache", str(tmp_path / "cache")]
    assert main(["train", *sources, "-o", str(tmp_path / "m.safetensors"), *kept]) == 0
    (records,) = (tmp_path / "cache").glob("*.inputs")
    assert records.stat().st_size > 40 * 32 * 32
    images = read_card(tmp_path / "m.safetensors").training["images"]
    assert sum(images["train"].values()) == 32


@pytest.mark.parametrize(
    "classes", ["dark lung,white lung,dark lung", "dark lung", "dark lung,white lung,third"]
)
def test_wrong_classes_fail_in_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: str
) -> None:
    output = tmp_path / "m.safetensors"
    assert main(["train", str(level_archive), "-o", str(output), *FAST, "--classes", classes]) == 1
    one_error(capsys)


def test_a_batch_of_one_small_image_trains_or_fails_in_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 32 px the last layer is one pixel, of which a batch of one gives no statistics."""
    options = [*FAST, "--batch-size", "1", "--draws", "2"]
    if main(["train", str(level_archive), "-o", str(tmp_path / "m"), *options]) != 0:
        assert "batch" in one_error(capsys)


def test_a_start_that_is_no_checkpoint_fails_in_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "init").write_text("nothing")
    command = [
        "train",
        str(level_archive),
        "-o",
        str(tmp_path / "m"),
        "--init",
        str(tmp_path / "init"),
    ]
    assert main([*command, *FAST]) == 1
    assert "is not a plain state dict" in one_error(capsys)


def test_a_few_unreadable_images_are_listed_and_change_the_exit_code(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 3: done, but some images could not be read."""
    whole = next(level_archive.glob("*/*.png")).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    labels = labels_csv(level_archive, tmp_path, split=ordinary, extra="cut.png,dark lung,train\n")
    output = tmp_path / "m.safetensors"
    code = main(["train", str(labels), "-o", str(output), *FAST])
    assert "no image: 'cut.png': " in capsys.readouterr().err
    assert sum(load_checkpoint(output).card.training["unreadable"].values()) == 1
    assert code == 3


def test_many_unreadable_images_stop_the_run(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text("no image")
    extra = "".join(f"{i}.txt,dark lung,train\n" for i in range(4))
    labels = labels_csv(level_archive, tmp_path, split=ordinary, extra=extra)
    assert main(["train", str(labels), "-o", str(tmp_path / "m"), *FAST]) == 1
    assert "4 of 44 files gave no image" in one_error(capsys)
    assert not (tmp_path / "m").exists()


def test_a_test_side_of_one_class_says_what_is_undefined(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_csv(
        level_archive,
        tmp_path,
        split=lambda label, n: "val" if n >= 16 and label == "dark lung" else ordinary(label, n),
    )
    output = tmp_path / "m.safetensors"
    assert main(["train", str(labels), "-o", str(output), *FAST]) == 0
    assert "dark lung: recall undefined: no image" in capsys.readouterr().out
    json.loads(load_checkpoint(output).card.to_json())


def test_a_given_split_with_leaks_is_refused_and_trained_without_them(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], write_png: PngMaker
) -> None:
    """An image of the validation side, slightly changed, is in training under another name."""
    with Image.open(level_archive / "dark lung" / "13.png") as image:
        grey = np.array(image)
    grey[5, 5] ^= 1
    write_png(tmp_path / "copy.png", grey)
    labels = labels_csv(level_archive, tmp_path, split=ordinary, extra="copy.png,dark lung,train\n")
    command = ["train", str(labels), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main(command) == 1
    message = one_error(capsys)
    assert "1 pairs are on two sides" in message
    assert "13.png' (val) and 'copy.png' (train): nearly the same picture" in message
    assert "--drop-leaks" in message
    assert "copy.png" in (tmp_path / "m.leaks.csv").read_text()
    assert main([*command, "--drop-leaks"]) == 0
    assert "left out as copies of files on another side: 1: 'copy.png'" in capsys.readouterr().err
    card = load_checkpoint(tmp_path / "m.safetensors").card
    assert card.training["images"]["train"] == {"dark lung": 12, "white lung": 12}


def test_an_image_that_goes_away_while_it_trains_costs_its_row_alone(
    level_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = shutil.copytree(level_archive, tmp_path / "films")
    gone = []

    def removing(path: Path, files: object, located: list[Path], **options: object) -> None:
        gone.append(located[0].relative_to(films).as_posix())
        located[0].unlink()
        write_results(path, files, located, **options)

    monkeypatch.setattr("cxrbatch.training.session.write_results", removing)
    output = tmp_path / "m.safetensors"
    assert main(["train", str(films), "-o", str(output), *FAST]) == 0
    rows = open_table(tmp_path / "m.results.parquet").read(["path", "outcome"]).to_pylist()
    assert [row["path"] for row in rows if row["outcome"] == "unreadable_file"] == gone
    assert len(rows) == 8

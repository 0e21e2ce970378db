"""`cxrbatch train` with bad input: one clear line, and nothing written over."""

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from calls import FAST, PngMaker, labels_csv, one_error, ordinary
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.table import open_table
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.training.labelled_tables import write_results


@pytest.mark.parametrize("name", ["labels.csv", "labels.split.csv", "m.csv"])
def test_labels_are_not_written_over_even_where_asked(
    name: str, level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_csv(level_archive, tmp_path, split=ordinary).rename(tmp_path / name)
    before = labels.read_bytes()
    output = str(tmp_path / "labels.csv")
    listed = ["--mismatches", str(tmp_path / "m.csv")]
    assert main(["train", str(labels), "-o", output, *FAST, "--overwrite", *listed]) == 2
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
    (tmp_path / "labels.csv").write_text("remark,label\na,A\n")
    output = str(tmp_path / "m.safetensors")
    assert main(["train", str(tmp_path / "labels.csv"), "-o", output, *FAST]) == 1
    assert "no column names the images" in one_error(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["train", str(tmp_path / "empty"), "-o", output, *FAST]) == 1
    assert "has no class folders" in one_error(capsys)


def test_labels_that_do_not_fit_the_files_are_listed_where_asked(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "".join(f"gone{i:02}.png,dark lung,train\n" for i in range(30))
    labels = labels_csv(level_archive, tmp_path, split=ordinary, extra=gone)
    (tmp_path / "extra.png").touch()
    command = ["train", str(labels), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main(command) == 1
    printed = capsys.readouterr().err
    assert printed.count(": 'gone") == 20
    assert "label without a file: 10 more; --mismatches FILE lists them" in printed
    assert "30 x label without a file: correct the path, say with --root" in printed
    assert "or take its line out" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"labels.csv", "extra.png"}
    listing = tmp_path / "list.csv"
    assert main([*command, "--mismatches", str(listing)]) == 1
    with listing.open() as lines:
        listed = [(row["path"], row["reason"]) for row in csv.DictReader(lines)]
    expected = [(f"gone{i:02}.png", "label without a file") for i in range(30)]
    assert listed == expected
    capsys.readouterr()
    assert main([*command, "--mismatches", str(listing)]) == 2
    assert f"{listing} exists" in one_error(capsys)


def test_many_files_without_a_label_are_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where labels.csv lies above a larger archive."""
    films = shutil.copytree(level_archive, tmp_path / "films")
    for i in range(2000):
        (films / f"{i:04}\n.png").touch()
    command = ["train", str(films), "-o", str(tmp_path / "m.safetensors"), "--classes", "none"]
    assert main(command) == 1
    printed = capsys.readouterr().err
    (line,) = [x for x in printed.splitlines() if "without a label" in x]
    assert line.startswith("warning: images without a label are left out: 2,000, such as ")
    assert line.endswith("; --mismatches FILE lists them")
    assert line.count("\\n.png") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["films"]


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

    def removing(
        path: Path, files: Sequence[tuple[LabelledFile, ArchiveFile]], **options: object
    ) -> None:
        label, file = files[0]
        gone.append(label.path)
        Path(os.fsdecode(file.path)).unlink()
        write_results(path, files, **options)

    monkeypatch.setattr("cxrbatch.training.pipeline.write_results", removing)
    output = tmp_path / "m.safetensors"
    assert main(["train", str(films), "-o", str(output), *FAST]) == 0
    rows = open_table(tmp_path / "m.results.parquet").read(["path", "outcome"]).to_pylist()
    assert [row["path"] for row in rows if row["outcome"] == "unreadable_file"] == gone
    assert len(rows) == 8

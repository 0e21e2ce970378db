"""What is refused is refused before any image is read, and a refusal changes nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from calls import FAST, one_error

from cxrbatch.cli import main
from cxrbatch.errors import CxrbatchError
from cxrbatch.model.checkpoint import load_checkpoint


def all_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of every file its number, which another has who replaces it, and its content."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images must not be read."""
    monkeypatch.setattr("cxrbatch.training.labelled_images.prepare_inputs", None)


def test_a_refused_resume_changes_nothing(
    level_archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    films = shutil.copytree(level_archive, tmp_path / "films")
    output = tmp_path / "m.safetensors"
    command = ["train", str(films), "-o", str(output), *FAST]

    def stop(*_: object, **__: object) -> None:
        raise CxrbatchError("stopped")

    with monkeypatch.context() as stopped:
        stopped.setattr("cxrbatch.training.fitting.finish", stop)
        assert main(command) == 1
    before = all_below(tmp_path)
    assert {"m.split.csv", "m.augmented.png", "m.training/best.safetensors"} < before.keys()

    def refused(*changed: str) -> str:
        capsys.readouterr()
        assert main([*command, *changed, "--resume"]) == 2
        assert all_below(tmp_path) == before
        return one_error(capsys)

    with monkeypatch.context() as early:
        early.setattr("cxrbatch.training.labelled_images.prepare_inputs", None)
        assert "seed was 0, now 1" in refused("--seed", "1")
        assert "size was 32, now 40" in refused("--size", "40")
        assert "epochs was 1, now 2" in refused("--epochs", "2")
        assert "geometry was squeeze, now pad" in refused("--geometry", "pad")
    assert "classes was" in refused("--classes", "white lung,dark lung")
    (films / "dark lung" / "00.png").unlink()
    (films / "loose.png").touch()
    before = all_below(tmp_path)
    assert "other training images or labels" in refused()
    shutil.copy(level_archive / "dark lung" / "00.png", films / "dark lung" / "00.png")
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    assert "images without a label are left out: 1, such as" in capsys.readouterr().err
    assert not (tmp_path / "m.mismatches.csv").exists()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "the teacher 'tiny' knows Normal, COVID-19, Viral Pneumonia, in this order"),
        (["--classes", "none"], "no image of 'none'"),
    ],
)
def test_a_teacher_of_other_classes_is_refused_before_any_image_is_read(
    level_archive: Path,
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
    expected: str,
) -> None:
    output = tmp_path / "m.safetensors"
    command = ["train", str(level_archive), "-o", str(output), "--teacher", str(tiny_checkpoint)]
    assert main([*command, *FAST, *options]) == 1
    assert expected in one_error(capsys)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("option", ["--teacher", "--init"])
@pytest.mark.parametrize("content", [b"", b"nothing", bytes(100), None])
def test_what_is_no_checkpoint_is_refused_before_any_image_is_read(
    level_archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    content: bytes | None,
) -> None:
    given = tmp_path / "given.safetensors"
    if content is not None:
        given.write_bytes(content)
    command = ["train", str(level_archive), "-o", str(tmp_path / "m"), *FAST, option, str(given)]
    assert main(command) == 1
    assert "given.safetensors" in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else [given.name])


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("sides", "patients", "expected"),
    [
        (["train"] * 39 + [""], [""] * 40, "1 of 40 files have no split"),
        (["train"] * 20 + ["val"] * 20, [""] * 40, "no image of 'white lung' in the train split"),
        ([""] * 40, ["p"] * 20 + [""] * 20, "'dark lung' has 1"),
    ],
)
def test_a_split_that_cannot_be_had_is_refused_before_any_image_is_read(
    level_archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sides: Sequence[str],
    patients: Sequence[str],
    expected: str,
) -> None:
    files = sorted(level_archive.glob("*/*.png"))
    rows = [
        f"{file},{file.parent.name},{patient},{side}"
        for file, patient, side in zip(files, patients, sides, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,patient,split", *rows]))
    command = ["train", str(tmp_path / "labels.csv"), "-o", str(tmp_path / "m"), *FAST]
    assert main(command) == 1
    assert expected in one_error(capsys)


def test_a_list_of_leaks_goes_with_the_leaks(level_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "m.leaks.csv").write_text("of an earlier run\n")
    output = tmp_path / "m.safetensors"
    assert main(["train", str(level_archive), "-o", str(output), *FAST]) == 0
    assert load_checkpoint(output).card.name == "m"
    assert not (tmp_path / "m.leaks.csv").exists()

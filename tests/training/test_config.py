"""`cxrbatch train --config`: options from a TOML file, and the file with all options of a run."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from calls import FAST, one_error

from cxrbatch.cli import main
from cxrbatch.errors import UsageError
from cxrbatch.model.checkpoint import read_card
from cxrbatch.training.command import command
from cxrbatch.training.config import MOST_CONFIG_BYTES, read_options, write_config
from cxrbatch.training.train import train

SMALL = 'size = 32\nepochs = 1\ndraws = 8\nbatch_size = 8\nworkers = 0\ndevice = "cpu"\n'
OF_ONE_CALL = {"config", "overwrite", "resume", "check-labels", "mismatches"}


def refusal(text: str | bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of this file, without the file's path."""
    path = folder / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = sorted(folder.iterdir())
    assert main(["train", "--config", str(path)]) == 2
    assert sorted(folder.iterdir()) == before
    prefix = f"error: {path}"
    line = one_error(capsys)
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "learning-rte = 0.1",
            ": there is no option learning-rte; the nearest is learning-rate",
        ),
        ("Batch_Sise = 8", ": there is no option Batch_Sise; the nearest is batch-size"),
        ("zzz = 1", ": there is no option zzz; see 'cxrbatch train --help'"),
        ('config = "other.toml"', ": there is no option config; see 'cxrbatch train --help'"),
        ("batch-size = 8\nbatch_size = 8", ": batch_size is given twice, with - and with _"),
        ("[training]\nepochs = 1", ": there is no table training; write its options without a"),
        ("[epochs]\nnumber = 1", ": epochs: give a whole number, not a table"),
        ('epochs = "8"', ": epochs: give a whole number, not a text"),
        ("epochs = 8.0", ": epochs: give a whole number, not a number"),
        ("epochs = true", ": epochs: give a whole number, not true or false"),
        ("epochs = 2001-01-01", ": epochs: give a whole number, not a date or time"),
        ("epochs = [8]", ": epochs: give a whole number, not a list"),
        ("epochs = 0", ": epochs: 0 is not in the range"),
        ("learning-rate = 2", ": learning-rate: 2"),
        ("learning-rate = nan", ": learning-rate: "),
        ('learning_rate = "fast"', ": learning_rate: give a number, not a text"),
        ('flip = "no"', ": flip: give true or false, not a text"),
        ("flip = 1", ": flip: give true or false, not a whole number"),
        ('arch = "vit"', ": arch: 'vit' is not one of"),
        ("name = 7", ": name: give a text, not a whole number"),
        ("data = 7", ": data: give a text, not a whole number"),
        ('root = ["a", ["b"]]', ": root: give a text, not a list"),
        ('classes = ["a", 1]', ": classes: give a text, not a whole number"),
        ('output = "a\\u0000b"', ": output: take the NUL out of the text"),
        ("[map]\n1 = 2", ": map: give a text, not a whole number"),
        ("[map.inner]\n1 = 'a'", ": map: give a text, not a table"),
        ('map = ["COVID"]', ": map: 'COVID' is not like 1=COVID-19"),
        ('map = ["1=A", "1=B"]', ": map: '1' is given two classes"),
        ("epochs 8", " is no TOML: "),
        ("epochs = 1\nepochs = 2", " is no TOML: "),
        ("name = 'a\0b'", " is no TOML: "),
        (b'name = "\xff"', " is no TOML: it is not UTF-8"),
        ("seed = " + "9" * 5000, " is no TOML: "),
        ("a = " + "[" * 100_000, " is no TOML: its values are nested too deeply"),
        ("#" * (MOST_CONFIG_BYTES + 1), " has more than 1 MiB; give a TOML file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, expected: str
) -> None:
    assert refusal(text, tmp_path, capsys).startswith(expected)


def test_what_is_no_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, expected in (
        (tmp_path, f"{tmp_path} is no regular file; give a TOML file"),
        (tmp_path / "pipe", "pipe is no regular file; give a TOML file"),
        (tmp_path / "none.toml", "No such file or directory; give a TOML file"),
    ):
        assert main(["train", "--config", str(path)]) == 2
        assert one_error(capsys).endswith(expected)


def values(text: str, folder: Path) -> dict[str, object]:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8-sig")
    return read_options(path, command.make_context("train", ["x"], resilient_parsing=True))


def test_values_are_those_of_the_parameters(tmp_path: Path) -> None:
    assert values(
        'data = "a.csv"\nroot = ["x", "y"]\nclasses = ["a, b", "c"]\nlearning_rate = 1\n'
        'flip = true\nlimit = "one"\n[map]\n"1=2" = "a=b"\n',
        tmp_path,
    ) == {
        "data": ["a.csv"],
        "root": ["x", "y"],
        "classes": ["a, b", "c"],
        "learning_rate": 1,
        "flip": True,
        "limit": ["one"],
        "class_map": [("1=2", "a=b")],
    }
    assert values('map = "1=A"\nclasses = "A,B"', tmp_path) == {
        "class_map": ["1=A"],
        "classes": "A,B",
    }


def taken(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, object]:
    """The arguments that the command would call `train` with."""
    calls: list[dict[str, object]] = []

    class Result:
        all_read = True

    monkeypatch.setattr(
        "cxrbatch.training.command.train", lambda **given: calls.append(given) or Result()
    )
    assert main(["train", *words]) == 0
    return calls[0]


def test_a_flag_comes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "run.toml").write_text(
        'data = ["a", "b"]\noutput = "m"\nepochs = 2\nseed = 2\nsize = 64\nflip = true\n'
        'classes = ["p, q", "r"]\n[map]\n"1=2" = "r"\n'
    )
    monkeypatch.setenv("CXRBATCH_TRAIN_SEED", "3")
    monkeypatch.setenv("CXRBATCH_TRAIN_EPOCHS", "3")
    given = taken(monkeypatch, "--config", "run.toml", "--epochs", "4")
    assert (given["epochs"], given["seed"], given["size"]) == (4, 3, 64)
    assert (given["flip"], given["patience"], given["batch_size"]) == (True, None, 32)
    # Relative to the working folder, as on the command line.
    assert given["data"] == (Path("a"), Path("b"))
    assert given["output"] == Path("m")
    assert given["classes"] == ["p, q", "r"]
    assert given["class_map"] == {"1=2": "r"}
    given = taken(monkeypatch, "b", "-o", "n", "--config", "run.toml", "--classes", "A,B")
    assert (given["data"], given["output"]) == ((Path("b"),), Path("n"))
    assert given["classes"] == ["A", "B"]


def test_paths_that_are_not_taken_need_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text('data = "gone"\noutput = "m"\n')
    assert taken(monkeypatch, str(tmp_path), "--config", str(path))["output"] == Path("m")
    assert main(["train", "--config", str(path)]) == 2
    assert "'gone' does not exist" in one_error(capsys)


# The file of a run


def test_the_written_file_repeats_the_run(
    level_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a relative path and a recipe, to the same bytes by absolute paths."""
    monkeypatch.chdir(level_archive.parent)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(SMALL + 'seed = 5\nlimit = ["few films"]\n')
    output, config = tmp_path / "m.safetensors", tmp_path / "m.toml"
    assert main(["train", level_archive.name, "-o", str(output), "--config", str(recipe)]) == 0
    written = tomllib.loads(config.read_text())
    assert written["data"] == [str(level_archive)]
    assert written["output"] == str(output)
    assert (written["name"], written["seed"], written["learning-rate"]) == ("m", 5, 0.001)
    assert written["precision"] in ("fp32", "bf16")
    first = output.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "m.toml", "-o", "again.safetensors"]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == first
    again = tomllib.loads((tmp_path / "again.toml").read_text())
    assert again == {**written, "output": str(tmp_path / "again.safetensors")}
    output.write_bytes(b"replaced")
    assert main(["train", "--config", "m.toml", "--overwrite"]) == 0
    assert output.read_bytes() == first
    assert tomllib.loads(config.read_text()) == written


def test_the_function_writes_all_options_and_the_command_reads_them(
    level_archive: Path, tmp_path: Path
) -> None:
    films = sorted(level_archive.glob("*/*.png"))
    rows = [f"{path},{path.parent.name},{number}" for number, path in enumerate(films)]
    (tmp_path / "l.csv").write_text("\n".join(["path,label,patient", *rows]))
    (tmp_path / "twins.csv").write_text(f"path,twin\n{films[0]},{films[1]}\n")
    (tmp_path / "foreign" / "hands").mkdir(parents=True)
    (tmp_path / "foreign" / "hands" / "1.png").write_bytes(films[0].read_bytes())
    given: dict[str, Any] = {
        "data": tmp_path / "l.csv",
        "output": tmp_path / "m.safetensors",
        "root": [level_archive],
        "by": "path",
        "label_column": "label",
        "path_column": "path",
        "patient_column": "patient",
        "class_map": {"dark lung": "dark, or = grey"},
        "cache": tmp_path / "cache",
        "name": "é",
        "classes": ["dark, or = grey", "white lung"],
        "patience": 3,
        "draws": 8,
        "limit": ["a", 'b "quoted"'],
        "init": "default",
        "twins": tmp_path / "twins.csv",
        "foreign": tmp_path / "foreign",
        "drop_leaks": True,
        "flip": True,
    }
    given |= {"size": 32, "epochs": 1, "batch_size": 8, "workers": 0, "device": "cpu"}
    train(**given, teacher=(), progress=False)
    read = tomllib.loads((tmp_path / "m.toml").read_text())
    longs = {p.opts[-1].removeprefix("--") for p in command.params} - OF_ONE_CALL
    # Of --folds and --drop-leaks only one is possible; test_folds has the other.
    assert read.keys() == longs - {"folds"}
    assert read["map"] == {"dark lung": "dark, or = grey"}
    assert read["init"] == "default"
    assert main(["train", "--config", str(tmp_path / "m.toml"), "-o", str(tmp_path / "n")]) == 0
    assert (tmp_path / "n").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert read_card(tmp_path / "n").classes == ("dark, or = grey", "white lung")


def test_what_toml_cannot_hold_is_left_out_with_a_comment(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"/films\xff"))
    path = tmp_path / "m.toml"
    write_config(path, {"data": [odd], "by": None, "map": {"1": "a\nb"}, "root": [Path("x")]})
    text = path.read_text()
    assert "# data is left out: it is not UTF-8." in text
    assert tomllib.loads(text) == {"root": [str(Path("x").absolute())], "map": {"1": "a\nb"}}


def test_a_recipe_is_never_replaced(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "m.toml"
    recipe.write_text(f"# by hand\n{SMALL}")
    words = ["train", str(level_archive), "-o", str(tmp_path / "m.safetensors")]
    for more in ([], ["--overwrite"], ["--resume"]):
        assert main([*words, "--config", str(recipe), *more]) == 2
        assert "m.toml was not written by a training" in one_error(capsys)
    assert recipe.read_text().startswith("# by hand")
    with pytest.raises(UsageError, match="choose another output"):
        train(level_archive, tmp_path / "m.safetensors", overwrite=True, progress=False)
    assert main(["train", str(level_archive), "-o", str(tmp_path / "other.toml"), *FAST]) == 2
    assert "is the name of the configuration" in one_error(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["m.toml"]


def test_a_configuration_of_an_earlier_run_is_not_replaced_unasked(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "m.toml"
    write_config(config, {"epochs": 3})
    words = ["train", str(level_archive), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main(words) == 2
    assert f"{config} exists" in one_error(capsys)
    assert main([*words, "--overwrite"]) == 0
    assert tomllib.loads(config.read_text())["epochs"] == 1

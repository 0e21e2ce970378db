"""`cxrbatch score` as called: what it prints, its exit codes, and no traceback for a mistake."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.results.table import open_table


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "archive"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 70), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "film.png")
    (folder / "note.txt").write_text("a note")
    return folder


def test_prints_a_summary(
    archive: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = archive.parent / "r.parquet"
    code = main(["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)])
    printed = capsys.readouterr()
    assert code == 0
    assert "scored" in printed.out
    assert "not_an_image" in printed.out
    assert "images/s" in printed.out
    assert "not a diagnosis" in printed.out
    assert str(output) in printed.out
    assert open_table(output).rows == 2


def test_the_main_process_loads_no_library_that_it_does_not_need(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    stand_in = tmp_path / "pandas"
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("__version__ = '0'")
    command = ["score", str(archive), "-o", str(tmp_path / "r.parquet")]
    command += ["--checkpoint", str(tiny_checkpoint)]
    code = f"""if True:
        import sys, warnings
        from cxrbatch.cli import main
        assert main({command!r}) == 0
        print({{"pandas", "pydicom", "scipy", "sklearn"}} & set(sys.modules))
        import pyarrow
        warnings.simplefilter("ignore")
        pyarrow.array([1])
        print("pandas" in sys.modules)
    """
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == ["set()", "True"], done.stderr[-500:]


def test_an_unreadable_image_gives_exit_code_3(archive: Path, tiny_checkpoint: Path) -> None:
    film = (archive / "film.png").read_bytes()
    (archive / "cut.png").write_bytes(film[: len(film) // 2])
    output = archive.parent / "r.parquet"
    arguments = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
    assert main(arguments) == 3
    assert open_table(output).rows == 3


def test_as_many_images_may_fail_as_allowed(archive: Path, tiny_checkpoint: Path) -> None:
    """One of four rows fails, and both ways to allow it agree at the limit itself."""
    film = (archive / "film.png").read_bytes()
    (archive / "cut.png").write_bytes(film[: len(film) // 2])
    (archive / "again.png").write_bytes(film)
    words = ["score", str(archive), "-o", str(archive.parent / "r.parquet")]
    words += ["--checkpoint", str(tiny_checkpoint)]
    codes = {
        allowed: main([*words, "--max-failed", allowed])
        for allowed in ("0", "1", "0.24", "0.25", "24%", "25%", "1.0")
    }
    assert {allowed for allowed, code in codes.items() if code == 0} == {"1", "0.25", "25%", "1.0"}
    assert set(codes.values()) == {0, 3}


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--fail-if-none"], 4)])
def test_an_archive_without_a_scored_image_is_told(
    archive: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
) -> None:
    words = ["score", str(archive), "-o", str(archive.parent / "r.parquet"), *options]
    words += ["--checkpoint", str(tiny_checkpoint)]
    assert main(words) == 0
    assert "no image was scored" not in capsys.readouterr().err
    (archive / "film.png").unlink()
    for extra in (["--update"], []):  # also where nothing is left to do
        assert main([*words, *extra]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: no image was scored")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{missing}"], 2, "cannot read archive"),
        (["{empty}"], 2, "no files"),
        (["{archive}", "--checkpoint", "{missing}"], 1, "checkpoint"),
        (["{archive}", "--checkpoint", "{archive}/note.txt"], 1, "not a cxrbatch checkpoint"),
        (["{archive}", "--batch-size", "0"], 2, "batch-size"),
        (["{archive}", "--precision", "fp16", "--device", "cpu"], 2, "fp16 needs a GPU"),
        (["{archive}", "-o", "{there}"], 2, "--overwrite"),
        (["{archive}", "-o", "{missing}/r.parquet"], 2, "does not exist"),
        (["{archive}", "--no-such-option"], 2, "no-such-option"),
        (["{archive}", "--ray-address", "auto"], 2, "--engine ray"),
        (["{archive}", "--engine", "ray", "--ray-address", "ray://a:1"], 2, "a node of the"),
        (["{archive}", "--engine", "ray", "--backend", "openvino"], 2, "--engine local alone"),
        (["{archive}", "--precision", "int8"], 2, "needs --backend openvino"),
        (["{archive}", "--calibration", "{archive}"], 2, "give both or neither"),
        (["{archive}", "-o", "{missing}.csv"], 2, "give -o missing.parquet, and make a CSV"),
        (["{archive}", "-o", "{missing}.XLSX"], 2, "give -o missing.parquet"),
        (["{archive}", "--max-failed", "110%"], 2, "max-failed"),
        (["{archive}", "--max-failed", "-1"], 2, "max-failed"),
        (["{archive}", "--max-failed", "nan"], 2, "max-failed"),
        (["{archive}", "--deadline", "nan"], 2, "not a finite number"),
        (["{archive}", "--deadline", "inf"], 2, "deadline"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    code: int,
    words: str,
    archive: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {name: archive.parent / name for name in ("missing", "empty", "there", "archive")}
    places["empty"].mkdir()
    places["there"].write_text("precious")
    given = [argument.format(**places) for argument in arguments]
    if "--checkpoint" not in given:
        given += ["--checkpoint", str(tiny_checkpoint)]
    if "-o" not in given:
        given += ["-o", str(archive.parent / "r.parquet")]
    assert main(["score", *given]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert words in printed.err
    assert places["there"].read_text() == "precious"
    assert not (archive.parent / "r.parquet").exists()


def test_a_full_disk_is_one_line(
    archive: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("/dev/full is not on this system")
    # The table is written beside its name; here every write to it meets a full disk.
    command = [sys.executable, "-c", _ON_A_FULL_DISK, str(archive), str(archive.parent / "r")]
    run = subprocess.run(
        [*command, str(tiny_checkpoint)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "No space left on device" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (archive.parent / "r").exists()


_ON_A_FULL_DISK = """
import os, sys
from pathlib import Path
import pyarrow.parquet as pq
from cxrbatch.cli import main
real = pq.ParquetWriter
pq.ParquetWriter = lambda path, *a, **k: real("/dev/full", *a, **k)
_, archive, output, checkpoint = sys.argv
sys.exit(main(["score", archive, "-o", output, "--workers", "0", "--checkpoint", checkpoint]))
"""


def test_goes_on_and_says_so(
    archive: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = archive.parent / "r.parquet"
    words = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
    words += ["--workers", "0", "--commit-every", "1"]
    (archive / "a").symlink_to("note")
    os.mkfifo(archive / "b")
    assert main(words) == 0
    before = output.read_bytes()
    assert "passed over  1 fifo, 1 link\n" in capsys.readouterr().out
    assert main(words) == 0
    again = capsys.readouterr().out
    assert "nothing to do: the table is complete" in again
    assert "passed over  1 fifo, 1 link\n" in again
    assert main([*words, "--update", "--overwrite"]) == 2
    assert main([*words, "--batch-size", "2"]) == 2
    assert "batch size (32, now 2)" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_a_table_that_is_only_converted_or_shortened_was_not_complete(
    archive: Path,
    tiny_checkpoint: Path,
    write_as_older: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = archive.parent / "r.parquet"
    words = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
    words += ["--workers", "0", "--update"]
    assert main(words) == 0
    write_as_older(output)
    capsys.readouterr()
    for change, note in (
        (lambda: None, "note: the table had schema 2.1, which has no ood_kind"),
        ((archive / "note.txt").unlink, ""),
    ):
        change()
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert "read         no file: all rows were kept, and the table was written anew" in out
        assert "nothing to do" not in out
        assert note in err
        assert err.count("\n") <= bool(note)
    assert main(words) == 0
    assert "nothing to do: the table is complete" in capsys.readouterr().out


def test_a_merge_of_older_parts_tells_what_the_rows_lack(
    archive: Path,
    tiny_checkpoint: Path,
    write_as_older: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = [archive.parent / "1.parquet", archive.parent / "2.parquet"]
    for number, part in enumerate(parts, 1):
        words = ["score", str(archive), "-o", str(part), "--checkpoint", str(tiny_checkpoint)]
        assert main([*words, "--workers", "0", "--shard", f"{number}/2"]) == 0
    merging = ["merge", str(archive.parent / "r.parquet"), *map(str, parts), "--overwrite"]
    capsys.readouterr()
    assert main(merging) == 0
    assert capsys.readouterr().err == ""
    for part in parts:
        write_as_older(part)
    assert main(merging) == 0
    assert "the parts had schema 2.1, which has no ood_kind" in capsys.readouterr().err


@pytest.mark.parametrize("paths", [False, True])
def test_events_are_lines_of_json_that_name_no_patient(
    archive: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], paths: bool
) -> None:
    (archive / "DOE^JANE.png").write_bytes((archive / "film.png").read_bytes()[:60])
    words = ["score", str(archive), "-o", str(archive.parent / "r"), "--commit-every", "2"]
    words += ["--checkpoint", str(tiny_checkpoint), "--workers", "0", "--log-format", "json"]
    assert main(words + ["--log-paths"] * paths) == 3
    err = capsys.readouterr().err
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == [
        "started",
        "file_failed",
        "shard_done",
        "shard_done",
        "finished",
    ]
    failed = {key: value for key, value in events[1].items() if key not in ("time", "event")}
    named = {"path": "DOE^JANE.png"} if paths else {}
    assert failed == {"file": 0, "outcome": "truncated", **named}
    assert [events[i].get("done") for i in (0, 2, 3)] == [0, 2, 3]
    assert events[4]["outcomes"] == {"not_an_image": 1, "scored": 1, "truncated": 1}
    assert ("DOE" in err) is paths
    assert str(archive) not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("to_all", [True, False])
def test_a_signal_ends_a_run_that_goes_on_later(
    archive: Path, tiny_checkpoint: Path, number: signal.Signals, code: int, to_all: bool
) -> None:
    for copy in range(3000):
        os.link(archive / "film.png", archive / f"film{copy}.png")
    output = archive.parent / "r.parquet"
    arguments = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
    arguments += ["--workers", "2", "--batch-size", "4", "--commit-every", "100"]
    run = subprocess.Popen(
        [sys.executable, "-m", "cxrbatch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    partial = archive.parent / "r.parquet.partial"
    deadline = time.monotonic() + 60
    while len(list(partial.glob("shard-*.arrow"))) < 2:  # the second says that the first counts
        assert run.poll() is None
        assert time.monotonic() < deadline, "scoring did not begin"
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(run.pid, number)
    out, err = run.communicate(timeout=30)
    assert run.returncode == code
    assert out == ""
    assert re.fullmatch(r"interrupted: [\d,]+ of 3,002 files are kept\ngo on with: (.*)\n", err)
    assert err.endswith(f"go on with: {shlex.join(['cxrbatch', *arguments])}\n")
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)  # nothing of its group is left
    assert not output.exists()
    assert list(partial.glob("shard-*.arrow"))

"""Labels of members of zips and tars, written as `score` writes their paths."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from calls import FAST, collect
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.results.frames import load_results
from cxrbatch.scoring.score import score
from cxrbatch.training.cache import prepare_inputs
from cxrbatch.training.labelled_files import CollectedLabels
from cxrbatch.training.mismatches import MismatchReason

Mode = Literal["w", "w:gz", "w:bz2", "w:xz"]
RECIPE = Recipe(size=32)


def png(level: int) -> bytes:
    grey = level + np.random.default_rng(level).integers(-20, 21, (32, 32))
    content = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(content, format="PNG")
    return content.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: Mode = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def collected(folder: Path, *rows: str) -> CollectedLabels:
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
    return collect([folder / "labels.csv"])


def test_each_member_gives_what_reading_it_by_itself_gives(tmp_path: Path) -> None:
    write_zip(tmp_path / "sub" / "a.zip", {"x/1.png": png(40), "x/2.png": png(80), "cut": b"?"})
    write_zip(tmp_path / "b.zip", {"x/1.png": png(120), "\u00e4.png": png(130)})
    write_tar(tmp_path / "deep" / "c.tar", {"3.png": png(160), "4.png": png(170)})
    write_tar(tmp_path / "deep" / "d.tar.gz", {f"{i}.png": png(30 + i) for i in range(9)}, "w:gz")
    (tmp_path / "plain.png").write_bytes(png(200))
    names = ["sub/a.zip!/x/2.png", "sub/a.zip!/x/1.png", "b.zip!/x/1.png", "b.zip!/\u00e4.png"]
    names += ["deep/c.tar!/4.png", "deep/c.tar!/3.png", "sub/a.zip!/cut", "plain.png"]
    names += [f"deep/d.tar.gz!/{i}.png" for i in (7, 0, 8, 3)]
    found = collected(tmp_path, *(f"{name},A" for name in names))
    assert found.mismatches == ()
    assert sorted(file.path for file in found.files) == sorted(names)
    inputs = prepare_inputs(
        found.located, recipe=RECIPE, workers=2, folder=tmp_path / "c", progress=lambda n: None
    )
    for label, value, outcome in zip(found.files, inputs.values, inputs.outcomes, strict=True):
        (reading,) = read_radiographs(tmp_path / label.path)
        assert outcome is reading.outcome
        if reading.image is not None:
            assert np.array_equal(value, RECIPE.prepare(reading.image))
    packed = [file.path for file in found.files if "d.tar.gz" in file.path]
    assert packed == [f"deep/d.tar.gz!/{i}.png" for i in (0, 3, 7, 8)]


def test_a_wrong_member_is_a_mismatch_that_says_why(tmp_path: Path) -> None:
    once = write_tar(tmp_path / "once.tar", {"1.png": png(40)}).read_bytes()
    write_tar(tmp_path / "twice.tar", {"1.png": png(50)})
    with (tmp_path / "twice.tar").open("ab") as archive:
        archive.write(once)  # tars that follow each other are one
    write_zip(tmp_path / "a.zip", {"1.png": png(40)})
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "no.png").write_bytes(png(3))
    rows = ["a.zip!/2.png", "none.zip!/1.png", "broken.zip!/1.png", "no.png!/1.png"]
    rows += ["a.zip!/b.tar!/c", "twice.tar!/1.png"]
    found = collected(tmp_path, *(f"{row},A" for row in rows))
    assert [m.reason for m in found.mismatches] == [MismatchReason.NO_FILE] * 5 + [
        MismatchReason.TWO_FILES
    ]
    details = [mismatch.detail.rpartition("': ")[2] for mismatch in found.mismatches]
    assert details[:2] == ["the archive has no such member", "No such file or directory"]
    assert details[2].startswith("the archive cannot be listed: ")
    assert details[3].startswith("the archive cannot be listed: neither zip nor tar")
    assert details[4] == "an archive inside an archive is not opened"
    assert details[5].count("twice.tar!/1.png") == 2


def test_a_damaged_member_is_told_as_score_tells_it(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"1.png": png(40), "2.png": png(90)})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[80] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    found = collected(tmp_path, "a.zip!/1.png,A", "a.zip!/2.png,A")
    for _ in range(2):
        inputs = prepare_inputs(
            found.located, recipe=RECIPE, workers=0, folder=tmp_path / "c", progress=lambda n: None
        )
        assert inputs.outcomes[1] is Outcome.SCORED
        assert inputs.outcomes[0] is read_radiographs(tmp_path / "a.zip!" / "1.png")[0].outcome
        assert inputs.outcomes[0] is not Outcome.SCORED


def test_members_train_and_the_table_has_the_paths_of_the_labels_and_of_score(
    tmp_path: Path,
) -> None:
    films = {
        f"{label}{i:02}.png": png(base + i)
        for label, base in (("a", 40), ("b", 150))
        for i in range(20)
    }
    names = sorted(films)
    write_zip(tmp_path / "one.zip", {name: films[name] for name in names[:13]})
    write_tar(tmp_path / "in" / "two.tgz", {name: films[name] for name in names[13:30]}, "w:gz")
    (tmp_path / "in" / "p").mkdir()
    for name in names[30:]:
        (tmp_path / "in" / "p" / name).write_bytes(films[name])
    paths = [f"one.zip!/{n}" for n in names[:13]] + [f"in/two.tgz!/{n}" for n in names[13:30]]
    paths += [f"in/p/{n}" for n in names[30:]]
    rows = [f"{path},{Path(path).name[0]}" for path in paths]
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "\n".join(rows))
    output = tmp_path / "out" / "m.safetensors"
    output.parent.mkdir()
    assert main(["train", str(labels), "-o", str(output), *FAST]) == 0
    table = load_results(output.with_name("m.results.parquet"))
    scored = score(tmp_path, tmp_path / "out" / "r.parquet", progress=False, workers=0)
    everything = load_results(scored.output).set_index("path")
    assert set(table["path"]) <= set(paths) & set(everything.index)
    assert table["split"].value_counts().to_dict() == {"val": 4, "test": 4}
    assert table.attrs["provenance"]["archive_root"] == str(tmp_path)
    for row in table.itertuples():
        assert row.file_size == everything.loc[row.path, "file_size"]
    report = ["report", str(output.with_name("m.results.parquet"))]
    page = str(tmp_path / "out" / "r.html")
    assert main([*report, "--labels", str(labels), "-o", page]) == 0

"""The public way in: files, members of archives, and the display image as an array."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from makers import make_dicom, ramp

from cxrbatch.errors import UsageError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import ReadingOptions, iterate_members_named, read_radiographs


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip with two members of one name, a plain one and a multi-frame one."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as packed, warnings.catch_warnings(action="ignore"):
        packed.writestr("a/film.dcm", make_dicom(ramp()))
        packed.writestr("a/film.dcm", make_dicom(np.stack([ramp()] * 2)))
    return path


@pytest.mark.parametrize("of", [str, Path, lambda path: str(path).encode()])
def test_a_path_may_be_text_a_path_or_bytes(of: type, tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(np.stack([ramp()] * 3)))
    readings = read_radiographs(of(path))
    assert [reading.frame for reading in readings] == [0, 1, 2]
    assert {reading.outcome for reading in readings} == {Outcome.SCORED}


def test_the_image_is_usable_as_an_array(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(ramp()))
    (reading,) = read_radiographs(path)
    pixels = np.asarray(reading.image)
    assert pixels.dtype == np.float32
    assert pixels.shape == (reading.facts.rows, reading.facts.columns)
    assert 0 == pixels.min() < pixels.max() <= 1
    np.testing.assert_array_equal(pixels, reading.display)
    assert np.asarray(reading.image, np.float64).dtype == np.float64


def test_a_copy_of_the_image_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(ramp().astype(np.uint32), bits_stored=12))
    (reading,) = read_radiographs(path)
    assert reading.image is not None
    assert reading.image.table is None
    before = reading.image.whole().copy()
    np.array(reading.image)[:] = -1
    np.testing.assert_array_equal(reading.image.whole(), before)


@pytest.mark.parametrize("of", [str, Path])
def test_a_member_is_named_behind_its_archive(of: type, archive: Path) -> None:
    readings = read_radiographs(of(f"{archive}!/a/film.dcm"))
    assert [reading.frame for reading in readings] == [0, 0, 1]
    assert {reading.outcome for reading in readings} == {Outcome.SCORED}


def test_a_file_whose_name_looks_like_a_member_is_read_itself(archive: Path) -> None:
    folder = archive.with_name("archive.zip!")
    folder.mkdir()
    (folder / "film.dcm").write_bytes(make_dicom(ramp()))
    assert [r.outcome for r in read_radiographs(folder / "film.dcm")] == [Outcome.SCORED]


def test_a_member_that_is_missing_is_an_outcome(archive: Path) -> None:
    (reading,) = read_radiographs(f"{archive}!/b.dcm")
    assert reading.outcome is Outcome.UNREADABLE_FILE
    assert "no such member" in reading.detail
    assert list(iterate_members_named(str(archive).encode(), b"b.dcm")) == []


def test_bytes_never_name_a_member(archive: Path) -> None:
    (reading,) = read_radiographs(f"{archive}!/a/film.dcm".encode())
    assert reading.outcome is Outcome.UNREADABLE_FILE


@pytest.mark.parametrize("path", ["a\0b.dcm", b"a\0b.dcm", "\ud800.dcm", Path("\0"), "a.zip!/\0"])
def test_a_name_that_no_file_can_have_is_an_outcome(path: str | bytes | Path) -> None:
    (reading,) = read_radiographs(path)
    assert reading.outcome is Outcome.UNREADABLE_FILE
    assert reading.detail == "no file can have this name"


@pytest.mark.parametrize("path", [None, 0, ["a.dcm"], np.zeros((2, 2)), bytearray(b"a.dcm")])
def test_what_is_no_path_is_refused_by_its_type(path: object) -> None:
    with pytest.raises(UsageError, match=f"path .* {type(path).__name__}; give a str"):
        read_radiographs(path)


@pytest.mark.parametrize("options", [None, {"no_voi": "robust"}, "robust"])
def test_what_are_no_options_is_refused_by_its_type(options: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"options .* {type(options).__name__}; give"):
        read_radiographs(tmp_path / "film.dcm", options)


def test_a_container_that_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(b"no zip")
    (reading,) = read_radiographs(f"{path}!/a.dcm")
    assert reading.outcome is Outcome.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "modalities", ["XA", " xa", ["XA"], ("CR", "xa"), {"XA"}, (c for c in ["XA"])]
)
def test_one_modality_or_several_may_be_given_in_any_collection(
    modalities: object, tmp_path: Path
) -> None:
    options = ReadingOptions(modalities=modalities)  # type: ignore[arg-type]  # of any type
    path = tmp_path / "film.dcm"
    for modality, outcome in (("XA", Outcome.SCORED), ("CT", Outcome.NOT_A_RADIOGRAPH)):
        path.write_bytes(make_dicom(ramp(), modality=modality))
        (reading,) = read_radiographs(path, options)
        assert reading.outcome is outcome


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_pixels", value) for value in (0, -1, 1.5, "9", True, None)),
        *(("modalities", value) for value in (None, 7, b"CR", ["CR", None])),
        *(("least_size", value) for value in (0, "320", 2.5)),
        *(("no_voi", value) for value in ("Robust", None, ["robust"])),
        *(("render_all", value) for value in ("no", None, 1)),
    ],
)
def test_options_of_reading_that_cannot_be_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name} is ") as refused:
        ReadingOptions(**{name: value})  # type: ignore[arg-type]  # wrong types
    assert "give" in str(refused.value)
    assert "\n" not in str(refused.value)

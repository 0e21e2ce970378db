"""The closed set of outcomes, and that each of reading's own is reached by some file."""

import gzip
import os
import socket
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_image_file,
    ramp,
)
from pydicom.data import get_testdata_file

from cxrbatch.reading.codecs import raster
from cxrbatch.reading.outcomes import Outcome, OutcomeKind, ReadingError, reading_error
from cxrbatch.reading.radiograph import (
    Reading,
    ReadingOptions,
    iterate_radiographs,
    iterate_radiographs_bytes,
    read_radiographs,
)

# These are found by who runs reading in processes of its own.
OF_ISOLATION = {Outcome.DECODER_CRASHED, Outcome.DECODER_TIMEOUT, Outcome.READER_KILLED}
CLASSES = {
    "1.2.840.10008.1.3.10": Outcome.DICOMDIR,
    "1.2.840.10008.5.1.4.1.1.88.11": Outcome.STRUCTURED_REPORT,
    "1.2.840.10008.5.1.4.1.1.88.59": Outcome.STRUCTURED_REPORT,
    "1.2.840.10008.5.1.4.1.1.104.1": Outcome.ENCAPSULATED_DOCUMENT,
    "1.2.840.10008.5.1.4.1.1.481.5": Outcome.RADIOTHERAPY_OBJECT,
    "1.2.840.10008.5.1.4.1.1.11.1": Outcome.PRESENTATION_STATE,
    "1.2.840.10008.5.1.4.1.1.9.1.1": Outcome.WAVEFORM,
    "1.2.840.10008.5.1.4.1.1.1.1": Outcome.NO_PIXEL_DATA,
}


def read(data: bytes, options: ReadingOptions | None = None) -> Reading:
    (reading,) = iterate_radiographs_bytes(data, options or ReadingOptions())
    assert (reading.outcome is Outcome.SCORED) == (reading.display is not None)
    return reading


def files() -> dict[Outcome, bytes]:
    """A file for each outcome that content alone decides."""
    plain = make_dicom(ramp())
    found = {
        outcome: make_dicom(None, modality=None, elements={0x00080016: ("UI", uid)})
        for uid, outcome in CLASSES.items()
    }
    return found | {
        Outcome.SCORED: plain,
        Outcome.UNSUPPORTED_CONTAINER: b"7z\xbc\xaf\x27\x1c" + bytes(100),
        Outcome.NOT_AN_IMAGE: b"%PDF-1.7 and no more",
        Outcome.NOT_A_RADIOGRAPH: make_dicom(ramp(), modality="CT"),
        Outcome.TOO_LARGE: make_dicom(ramp(), elements={0x00280008: ("IS", 2**31 - 1)}),
        Outcome.UNSUPPORTED_TRANSFER_SYNTAX: make_encapsulated(
            dataset_of(ramp()), [b"\0\0"], transfer_syntax="1.2.840.10008.1.2.4.102"
        ),
        Outcome.UNSUPPORTED_IMAGE: make_dicom(ramp(), photometric="HSV"),
        Outcome.TRUNCATED: plain[:-500],
        Outcome.CORRUPT: make_dicom(ramp(), elements={0x00280010: ("US", 0)}),
    }


@pytest.mark.parametrize("outcome", files())
def test_each_outcome_is_reached(outcome: Outcome) -> None:
    reading = read(files()[outcome])
    assert reading.outcome is outcome
    assert reading.detail or outcome is Outcome.SCORED


def test_the_other_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (reading,) = read_radiographs(tmp_path / "absent")
    assert reading.outcome is Outcome.UNREADABLE_FILE

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(raster, "read_png", no_memory)
    memory = read(make_image_file(ramp(), "PNG")).outcome
    assert memory is Outcome.OUT_OF_MEMORY
    reached = {*files(), Outcome.UNREADABLE_FILE, memory, *OF_ISOLATION}
    # The gate sees an image only after it was read.
    assert reached == set(Outcome) - {Outcome.WITHHELD_BY_GATE}


def test_every_outcome_is_described_in_one_line() -> None:
    for outcome in Outcome:
        assert outcome.kind in OutcomeKind
        assert outcome.value == outcome.name.lower()
        assert outcome.meaning.endswith(".")
        assert outcome.remedy.endswith(".")
        assert "\n" not in outcome.meaning + outcome.remedy


def test_a_foreign_exception_gives_its_class_and_not_its_text() -> None:
    class PanicException(BaseException):
        """As Rust's, outside Exception."""

    error = reading_error(PanicException("patient Doe^Jane"))
    assert error.outcome is Outcome.CORRUPT
    assert "PanicException" in error.detail
    assert "Doe" not in error.detail
    own = ReadingError(Outcome.TOO_LARGE, "a line")
    assert reading_error(own) is own


def test_a_panic_in_a_decoder_becomes_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As Rust's, outside Exception."""

    def panic(*_: object, **__: object) -> None:
        raise PanicException

    monkeypatch.setattr(raster, "read_jpeg", panic)
    reading = read(make_image_file(ramp(bits=8).astype(np.uint8), "JPEG"))
    assert (reading.outcome, reading.format) == (Outcome.CORRUPT, "jpeg")


def test_an_interrupt_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(raster, "read_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(iterate_radiographs_bytes(make_image_file(ramp(), "PNG")))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo, folder, listener = tmp_path / "fifo", tmp_path / "folder", tmp_path / "socket"
    os.mkfifo(fifo)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listener))
        done: list[Outcome] = []

        def attempt() -> None:
            for path in (fifo, folder, listener, Path("/dev/zero")):
                done.extend(reading.outcome for reading in read_radiographs(path))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(timeout=10)
    assert done == [Outcome.UNREADABLE_FILE] * 4


def test_paths_of_all_types_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(name, "wb") as file:
        file.write(make_image_file(ramp(), "PNG"))
    for path in (name, os.fsdecode(name), Path(os.fsdecode(name))):
        (reading,) = read_radiographs(path)
        assert reading.outcome is Outcome.SCORED


def test_bytes_and_file_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(make_dicom(ramp()))
    (from_file,) = read_radiographs(path)
    (from_bytes,) = iterate_radiographs_bytes(path.read_bytes())
    np.testing.assert_array_equal(from_file.display, from_bytes.display)
    assert from_file.facts == from_bytes.facts


@pytest.mark.parametrize("name", ["notes", "a.txt", ".dcm.part", "dcm"])
def test_an_empty_file_is_no_image(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    for reading in (read(b""), *read_radiographs(tmp_path / name)):
        assert (reading.outcome, reading.format) == (Outcome.NOT_AN_IMAGE, "other")
        assert "empty" in reading.detail


@pytest.mark.parametrize("name", ["a.dcm", "A.DCM", "b.PNG", "c.jpeg", "d.ima", "e.zip", "f.tgz"])
def test_an_empty_file_with_the_name_of_an_image_is_a_failure(name: str, tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, b"")
    (tmp_path / name).touch()
    for place in (tmp_path / name, os.fsencode(tmp_path / name), f"{path}!/{name}"):
        (reading,) = read_radiographs(place)
        assert reading.outcome.kind is OutcomeKind.FAILED
        assert (reading.outcome, reading.detail) == (
            Outcome.TRUNCATED,
            "the file is empty: it has 0 bytes",
        )


def test_a_packed_file_without_content_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm.gz"
    path.write_bytes(gzip.compress(b""))
    (reading,) = read_radiographs(f"{path}!/film.dcm")
    assert reading.outcome is Outcome.TRUNCATED


def test_other_modalities_are_rendered_when_asked_for() -> None:
    data = make_dicom(ramp(), modality="CT")
    (reading,) = iterate_radiographs_bytes(data, ReadingOptions(render_all=True))
    assert reading.outcome is Outcome.NOT_A_RADIOGRAPH
    assert reading.display is not None
    widened = ReadingOptions(modalities=frozenset({"CT"}))
    assert read(data, widened).outcome is Outcome.SCORED


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("with_meta", [True, False])
def test_without_preamble_or_file_meta(transfer_syntax: str, with_meta: bool) -> None:
    data = make_dicom(ramp(), transfer_syntax=transfer_syntax)
    start = 132
    if not with_meta:
        start += 12 + int.from_bytes(data[140:144], "little")
    reading = read(data[start:])
    np.testing.assert_array_equal(reading.display, read(data).display)
    assert reading.facts.transfer_syntax == transfer_syntax


def test_the_bytes_decide_where_the_file_meta_is_wrong() -> None:
    implicit, explicit = IMPLICIT.encode() + b"\0\0\0", EXPLICIT.encode() + b"\0"
    data = make_dicom(ramp())
    assert explicit in data
    wrong = data.replace(explicit, implicit.ljust(len(explicit), b"\0")[: len(explicit)], 1)
    np.testing.assert_array_equal(read(wrong).display, read(data).display)


def test_frames_are_decoded_one_by_one(tmp_path: Path) -> None:
    frames = np.stack([ramp() // (number + 1) for number in range(5)])
    path = tmp_path / "frames.dcm"
    path.write_bytes(make_dicom(frames))
    readings = iterate_radiographs(path)
    first = next(readings)
    readings.close()
    assert first.frame == 0
    assert [reading.frame for reading in read_radiographs(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, DEFLATED])
def test_pixel_data_shorter_than_claimed_give_one_row(transfer_syntax: str) -> None:
    elements = {0x00280008: ("IS", 5000)}
    data = make_dicom(ramp(), elements=elements, transfer_syntax=transfer_syntax)
    assert read(data).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("keep", [140, 200, 300, 400])
def test_a_cut_header_is_truncated(keep: int) -> None:
    data = make_dicom(ramp(), elements={0x00081030: ("LO", "x" * 64)})
    assert read(data[:keep]).outcome in (Outcome.TRUNCATED, Outcome.NO_PIXEL_DATA)


def test_pydicoms_own_collection_of_broken_files() -> None:
    expected = {
        "DICOMDIR-bigEnd": Outcome.DICOMDIR,
        "reportsi.dcm": Outcome.STRUCTURED_REPORT,
        "waveform_ecg.dcm": Outcome.WAVEFORM,
        "rtplan.dump": Outcome.NOT_AN_IMAGE,
        "rtstruct.dcm": Outcome.RADIOTHERAPY_OBJECT,
        "CT_small.dcm": Outcome.NOT_A_RADIOGRAPH,
    }
    for name, outcome in expected.items():
        (reading,) = read_radiographs(get_testdata_file(name, download=False))
        assert reading.outcome is outcome, name

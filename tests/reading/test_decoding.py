"""Compressed pixel data against uncompressed twins, bit for bit."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_BASELINE,
    RLE,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_image_file,
    ramp,
    rle_frame,
)
from pydicom.data import get_testdata_file
from pydicom.pixels.decoders.base import Decoder

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import (
    Reading,
    ReadingOptions,
    iterate_radiographs_bytes,
    read_radiographs,
)

ALL = ReadingOptions(render_all=True)
WINDOW = {0x00281050: ("DS", 2048), 0x00281051: ("DS", 4096)}


def read_all(data: bytes) -> list[Reading]:
    return list(iterate_radiographs_bytes(data, ALL))


def displays(name: str) -> list[np.ndarray]:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("not installed: pydicom-data")
    found = [reading.display for reading in read_radiographs(path, ALL)]
    assert all(display is not None for display in found)
    return [display for display in found if display is not None]


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_expb.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_padded.dcm", "MR_small.dcm"),
        ("rtdose_rle.dcm", "rtdose.dcm"),
        ("rtdose_expb.dcm", "rtdose.dcm"),
        ("liver_expb_1frame.dcm", "liver_1frame.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb.dcm"),
        ("SC_rgb_rle_2frame.dcm", "SC_rgb_2frame.dcm"),
        ("SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_16bit_2frame.dcm"),
        ("SC_rgb_expb_16bit_2frame.dcm", "SC_rgb_16bit_2frame.dcm"),
        ("SC_rgb_expb_2frame.dcm", "SC_rgb_2frame.dcm"),
        ("OBXXXX1A_rle_2frame.dcm", "OBXXXX1A_2frame.dcm"),
        ("OBXXXX1A_expb.dcm", "OBXXXX1A.dcm"),
        ("emri_small_RLE.dcm", "emri_small.dcm"),
        ("emri_small_big_endian.dcm", "emri_small.dcm"),
        ("emri_small_jpeg_2k_lossless.dcm", "emri_small.dcm"),
        ("emri_small_jpeg_ls_lossless.dcm", "emri_small.dcm"),
        ("RG1_J2KR.dcm", "RG1_UNCR.dcm"),
        ("RG3_J2KR.dcm", "RG3_UNCR.dcm"),
        ("MR2_J2KR.dcm", "MR2_UNCR.dcm"),
        ("US1_J2KR.dcm", "US1_UNCR.dcm"),
    ],
)
def test_lossless_twins(name: str, twin: str) -> None:
    compressed, plain = displays(name), displays(twin)
    assert len(compressed) == len(plain)
    for first, second in zip(compressed, plain, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_uncompressed_encodings_are_equal(transfer_syntax: str, bits: int) -> None:
    cells = ramp(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)
    (reading,) = read_all(make_dicom(cells, bits_stored=bits, transfer_syntax=transfer_syntax))
    (twin,) = read_all(make_dicom(cells, bits_stored=bits))
    np.testing.assert_array_equal(reading.display, twin.display)
    assert reading.facts.transfer_syntax == transfer_syntax


def test_rle_in_two_frames() -> None:
    frames = np.stack([ramp(), ramp()[::-1]])
    dataset = dataset_of(frames, elements=WINDOW)
    data = make_encapsulated(dataset, [rle_frame(frame) for frame in frames], transfer_syntax=RLE)
    found, twins = read_all(data), read_all(make_dicom(frames, elements=WINDOW))
    assert [reading.frame for reading in found] == [0, 1]
    for reading, twin in zip(found, twins, strict=True):
        np.testing.assert_array_equal(reading.display, twin.display)


@pytest.mark.parametrize("fragments", [1, 2, 3])
@pytest.mark.parametrize("table", ["full", "empty", "missing"])
def test_frames_of_several_fragments(fragments: int, table: str) -> None:
    frames = np.stack([ramp(bits=8), 255 - ramp(bits=8)]).astype(np.uint8)
    packed = [make_image_file(frame, "JPEG", quality=100) for frame in frames]
    data = make_encapsulated(
        dataset_of(frames, bits_stored=8),
        packed,
        transfer_syntax=JPEG_BASELINE,
        fragments=fragments,
    )
    if table != "full":
        at = data.index(b"\xfe\xff\x00\xe0\x08\x00\x00\x00")
        empty = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" if table == "empty" else b""
        data = data[:at] + empty + data[at + 16 :]
    found = read_all(data)
    assert [reading.outcome for reading in found] == [Outcome.SCORED, Outcome.SCORED]
    for reading, frame in zip(found, frames, strict=True):
        np.testing.assert_allclose(reading.display, frame / 255, atol=4 / 255)
        assert Flag.LOSSY in reading.flags


def openjpeg_frame() -> bytes:
    return imagecodecs.jpeg2k_encode(ramp(), level=0, codecformat="j2k", bitspersample=12)


@pytest.mark.parametrize(
    ("transfer_syntax", "encode"),
    [
        ("90", openjpeg_frame),
        ("91", openjpeg_frame),
        ("201", lambda: imagecodecs.htj2k_encode(ramp())),
        ("202", lambda: imagecodecs.htj2k_encode(ramp())),
        ("203", lambda: imagecodecs.htj2k_encode(ramp())),
    ],
)
def test_jpeg_2000(transfer_syntax: str, encode: Callable[[], bytes]) -> None:
    uid = f"1.2.840.10008.1.2.4.{transfer_syntax}"
    frame = bytes(encode())
    data = make_encapsulated(dataset_of(ramp(), elements=WINDOW), [frame], transfer_syntax=uid)
    (reading,) = read_all(data)
    np.testing.assert_array_equal(
        reading.display, read_all(make_dicom(ramp(), elements=WINDOW))[0].display
    )


@pytest.mark.parametrize(
    ("tool", "option"),
    [
        ("dcmcjpeg", "+e1"),  # .70
        ("dcmcjpeg", "+el"),  # .57
        ("dcmcjpls", "+el"),  # .80
        ("dcmcrle", "-q"),
    ],
)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_what_dcmtk_encodes(tool: str, option: str, bits: int, tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"not installed: {tool}")
    cells = ramp(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    plain.write_bytes(make_dicom(cells, bits_stored=bits))
    subprocess.run([tool, option, plain, packed], check=True, capture_output=True, timeout=60)
    (reading,) = read_radiographs(packed)
    (twin,) = read_radiographs(plain)
    assert reading.outcome is Outcome.SCORED
    np.testing.assert_array_equal(reading.display, twin.display)


def test_twelve_bit_jpeg_equals_dcmtk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if shutil.which("dcmdjpeg") is None:
        pytest.skip("not installed: dcmdjpeg")
    path = get_testdata_file("JPGExtended.dcm", download=False)
    plain = tmp_path / "plain.dcm"
    subprocess.run(["dcmdjpeg", path, plain], check=True, capture_output=True, timeout=60)
    capfd.readouterr()
    (reading,) = read_radiographs(path, ALL)
    assert capfd.readouterr().err == ""
    np.testing.assert_array_equal(reading.display, read_radiographs(plain, ALL)[0].display)


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_shortened_frames_are_refused(name: str, keep: float) -> None:
    path = get_testdata_file(name, download=False)
    with Path(path).open("rb") as file:
        data = file.read().replace(b"MR", b"CR")
    at = data.rindex(b"\xfe\xff\x00\xe0") + 4
    length = int.from_bytes(data[at : at + 4], "little")
    kept = int(length * keep) // 2 * 2
    cut = data[:at] + kept.to_bytes(4, "little") + data[at + 4 : at + 4 + kept]
    (reading,) = iterate_radiographs_bytes(cut + b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert (reading.outcome, reading.display) == (Outcome.TRUNCATED, None)


def test_a_codestream_of_another_size_is_corrupt() -> None:
    frame = make_image_file(ramp(bits=8).astype(np.uint8), "JPEG")
    dataset = dataset_of(ramp(80, 50, bits=8).astype(np.uint8), bits_stored=8)
    (reading,) = read_all(make_encapsulated(dataset, [frame], transfer_syntax=JPEG_BASELINE))
    assert reading.outcome is Outcome.CORRUPT


def test_a_missing_fragment_is_a_truncation() -> None:
    frames = np.stack([ramp(), ramp()])
    dataset = dataset_of(frames)
    data = make_encapsulated(dataset, [rle_frame(ramp())], transfer_syntax=RLE)
    assert [reading.outcome for reading in read_all(data)] == [Outcome.TRUNCATED]


def test_one_bad_frame_leaves_the_others() -> None:
    frames = np.stack([ramp(), ramp(), ramp()])
    packed = [rle_frame(frame) for frame in frames]
    packed[1] = packed[1][:100]
    data = make_encapsulated(dataset_of(frames), packed, transfer_syntax=RLE)
    outcomes = [reading.outcome for reading in read_all(data)]
    assert outcomes == [Outcome.SCORED, Outcome.TRUNCATED, Outcome.SCORED]


def test_retired_and_unknown_transfer_syntaxes_are_named() -> None:
    for uid, name in [("1.2.840.10008.1.2.4.100", "MPEG2"), ("1.2.3.4.5", "of 9 characters")]:
        known = "1.2.840.10008.1.2.4.103"
        data = make_encapsulated(dataset_of(ramp()), [b"\0\0"], transfer_syntax=known)
        data = data.replace(known.encode() + b"\0", uid.encode().ljust(len(known) + 1, b"\0"))
        (reading,) = read_all(data)
        assert reading.outcome is Outcome.UNSUPPORTED_TRANSFER_SYNTAX
        assert name in reading.detail


def test_pydicom_is_never_asked_to_choose_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries all that are installed, among them one that returns broken images silently."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    for name in ("as_array", "as_buffer", "iter_array", "iter_buffer"):
        monkeypatch.setattr(Decoder, name, refuse)
    for name in ("MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"):
        assert len(displays(name)) == 1


def test_a_signed_codestream_narrower_than_its_header_keeps_its_sign() -> None:
    values = np.arange(-100, 100, dtype=np.int8).reshape(10, 20)
    frame = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k"))
    window = {0x00281050: ("DS", 0), 0x00281051: ("DS", 256)}
    plain = values.astype(np.int16).view(np.uint16)
    dataset = dataset_of(plain, bits_stored=16, signed=True, elements=window)
    (twin,) = read_all(make_dicom(plain, bits_stored=16, signed=True, elements=window))
    data = make_encapsulated(dataset, [frame], transfer_syntax="1.2.840.10008.1.2.4.90")
    (reading,) = read_all(data)
    np.testing.assert_array_equal(reading.display, twin.display)


@pytest.mark.parametrize("lost", [1, 8])
def test_jpeg_2000_without_some_of_its_tiles_is_truncated(lost: int) -> None:
    cells = ramp(64, 64, bits=8).astype(np.uint8)
    frame = make_image_file(cells, "JPEG2000", no_jp2=True, tile_size=(16, 16))
    parts = frame.split(b"\xff\x90\0\x0a")
    assert len(parts) == 17
    for kept, outcome in ((17, Outcome.SCORED), (17 - lost, Outcome.TRUNCATED)):
        shortened = b"\xff\x90\0\x0a".join(parts[:kept]).removesuffix(b"\xff\xd9") + b"\xff\xd9"
        dataset = dataset_of(cells, bits_stored=8)
        uid = "1.2.840.10008.1.2.4.90"
        (reading,) = read_all(make_encapsulated(dataset, [shortened], transfer_syntax=uid))
        assert reading.outcome is outcome


@pytest.mark.parametrize("lost", [6, 60])
def test_lossless_jpeg_that_lacks_its_last_pixels_is_truncated(lost: int) -> None:
    noise = np.random.default_rng(1).integers(0, 4096, (40, 50)).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(noise, lossless=True, predictor=1, bitspersample=12)
    for cut, outcome in ((0, Outcome.SCORED), (lost, Outcome.TRUNCATED)):
        shortened = bytes(frame[: -2 - cut]).rstrip(b"\xff") + b"\xff\xd9"
        data = make_encapsulated(
            dataset_of(noise), [shortened], transfer_syntax="1.2.840.10008.1.2.4.70"
        )
        (reading,) = read_all(data)
        assert reading.outcome is outcome


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_file_cut_behind_its_last_fragment_is_truncated(cut: int) -> None:
    data = make_encapsulated(dataset_of(ramp()), [rle_frame(ramp())], transfer_syntax=RLE)
    assert read_all(data[:-cut])[0].outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_deflated_file_without_its_end_is_truncated(cut: int) -> None:
    data = make_dicom(ramp(), transfer_syntax=DEFLATED)
    data = data.removesuffix(b"\0")
    assert read_all(data)[0].outcome is Outcome.SCORED
    assert read_all(data[:-cut])[0].outcome is Outcome.TRUNCATED

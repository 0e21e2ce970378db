"""Broken and foreign files are broken and foreign in the way they are meant to be."""

from __future__ import annotations

import struct
import zlib

import pydicom
import pytest
from PIL import Image
from pydicom.uid import MediaStorageDirectoryStorage

from cxrbatch.sample.archive_writer import SampleSummary


def chunks(png: bytes) -> list[tuple[bytes, bool]]:
    """Type of each PNG chunk, and whether its checksum fits."""
    found, at = [], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        (recorded,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        content = png[at + 4 : at + 8 + length]
        found.append((content[:4], zlib.crc32(content) == recorded))
        at += 12 + length
    return found


def test_one_checksum_is_wrong_and_nothing_else(written: SampleSummary) -> None:
    found = chunks((written.directory / "broken/bad checksum.png").read_bytes())
    assert found[-1][0] == b"IEND"
    assert [kind for kind, fits in found if not fits] == [b"IDAT"]


def test_truncated_png_cannot_be_decoded(written: SampleSummary) -> None:
    with (
        Image.open(written.directory / "broken/truncated.png") as image,
        pytest.raises(OSError, match="truncated"),
    ):
        image.load()


def test_truncated_dicom_has_a_header_and_too_few_pixels(written: SampleSummary) -> None:
    header = pydicom.dcmread(written.directory / "broken/truncated.dcm")
    assert header.Modality == "CR"
    assert len(header.get("PixelData", b"")) < header.Rows * header.Columns * 2


def test_empty_file_is_empty(written: SampleSummary) -> None:
    assert (written.directory / "broken/empty.dcm").stat().st_size == 0


def test_ct_slice_is_ct_in_hounsfield_units(written: SampleSummary) -> None:
    header = pydicom.dcmread(written.directory / "pacs/other/ct slice.dcm")
    hounsfield = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    assert header.Modality == "CT"
    assert hounsfield.min() == -1000
    assert hounsfield.max() == 350


def test_report_is_a_structured_report_without_pixels(written: SampleSummary) -> None:
    header = pydicom.dcmread(written.directory / "pacs/other/report.dcm")
    assert header.Modality == "SR"
    assert "PixelData" not in header
    assert header.ContentSequence[0].TextValue


def test_dicomdir_is_one(written: SampleSummary) -> None:
    header = pydicom.dcmread(written.directory / "DICOMDIR")
    assert header.file_meta.MediaStorageSOPClassUID == MediaStorageDirectoryStorage
    assert list(header.DirectoryRecordSequence) == []

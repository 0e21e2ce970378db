"""Where a data set begins: preambles, file meta and what repeats it."""

import struct
from pathlib import Path

import pytest
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
)
from odd_elements import (
    assert_as_dcmtk,
    assert_plain,
    implicit,
    meta_of,
    plain,
    read,
    short,
)

from cxrbatch.reading.sniffing import sniff

REPEATED = {
    "explicit": short(0x00020010, b"UI", b"1.2.840.10008.1.2.4.70"),
    "implicit": implicit(0x00020010, b"1.2.840.10008.1.2.4.70"),
    "lower": short(0x00020000, b"UL", bytes(4)),
    "more": short(0x00020016, b"AE", b"SOMEONE "),
}


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("repeated", REPEATED)
def test_the_file_meta_is_not_what_the_data_set_repeats(
    transfer_syntax: str, repeated: str
) -> None:
    start, meta, dataset = meta_of(plain(transfer_syntax))
    # Without a group length nothing shows that a higher element is not the file meta's.
    for beginning in (start, start[:132])[: 1 if repeated == "more" else 2]:
        data = beginning + meta + REPEATED[repeated] + dataset
        assert_plain(data, remark="group 0002 lies inside the data set")
        assert read(data).facts.transfer_syntax == transfer_syntax


def test_a_file_meta_in_a_big_endian_data_set(tmp_path: Path) -> None:
    start, meta, dataset = meta_of(plain(BIG_ENDIAN))
    again = short(0x00020010, b"UI", BIG_ENDIAN.encode() + b"\0", ">")
    data = start + meta + again + dataset
    assert_plain(data, remark="group 0002 lies inside the data set")
    assert_as_dcmtk(data, tmp_path)


def test_a_wrong_group_length_of_a_deflated_file() -> None:
    start, meta, dataset = meta_of(plain(DEFLATED))
    data = start[:140] + struct.pack("<I", len(meta) + 8) + meta + dataset
    assert_plain(data, remark="the group length of the file meta is wrong")


@pytest.mark.parametrize("change", [-30, -8, 1, 8, 4000, None])
def test_a_wrong_group_length_is_not_believed(change: int | None, tmp_path: Path) -> None:
    start, meta, dataset = meta_of(plain())
    length = b"" if change is None else struct.pack("<I", len(meta) + change)
    start = start[:132] if change is None else start[:140] + length
    remark = None if change is None else "the group length of the file meta is wrong"
    assert_plain(start + meta + dataset, remark=remark)
    if change != 4000:
        assert_as_dcmtk(start + meta + dataset, tmp_path)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
def test_the_command_of_a_message_is_passed_over(transfer_syntax: str) -> None:
    start, meta, dataset = meta_of(plain(transfer_syntax))
    command = implicit(0x00000000, b"\x0c\0\0\0") + implicit(0x00000100, b"\1\0")
    data = start + meta + command + dataset
    assert_plain(data, remark="group 0000 lies inside the data set")


def bare(value: bytes, *, transfer_syntax: str = EXPLICIT) -> bytes:
    """A data set alone, whose element at byte 128 has a value."""
    element = implicit if transfer_syntax == IMPLICIT else lambda n, v: short(n, b"SH", v)
    dataset = meta_of(plain(transfer_syntax))[2]
    first = element(0x00080008, b"X" * (128 - 16))
    data = first + element(0x00080010, value) + dataset
    assert data[128:132] == value[:4]
    return data


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("value", [b"DICM", b"DICMA1", b"DICM\2\0\0\0UL\4\0"])
def test_letters_of_the_prefix_in_a_value(transfer_syntax: str, value: bytes) -> None:
    data = bare(value, transfer_syntax=transfer_syntax)
    assert sniff(data[:512], size=len(data)) == "dicom"
    reading = read(data)
    assert reading.facts.modality == "DX"
    assert_plain(data, remark=None)


def test_letters_of_the_prefix_in_front_of_a_lower_tag() -> None:
    comment = short(0x00080081, b"ST", b"X" * 94)
    data = CHARACTER_SET + comment + short(0x00081010, b"SH", b"DICMA1") + meta_of(plain())[2]
    assert data[128:132] == b"DICM"
    assert_plain(data, remark="element (0008,0016) is repeated or out of order")


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
def test_letters_of_the_prefix_in_a_long_value(transfer_syntax: str) -> None:
    """The value ends behind the bytes that tell formats apart."""
    assert_plain(bare(b"DICM" * 200, transfer_syntax=transfer_syntax), remark=None)


CHARACTER_SET = short(0x00080005, b"CS", b"ISO_IR 100")
PREAMBLES = {
    "TIFF": b"II*\0",
    "prefix": b"DICM",
    "element": CHARACTER_SET,
    "elements": CHARACTER_SET
    + short(0x00080008, b"CS", b"ORIGINAL")
    + short(0x00080016, b"UI", b"1.2.3\0"),
    "implicit": implicit(0x00080005, b"ISO_IR 100") + implicit(0x00080016, b"1.2.3\0"),
    "big endian": short(0x00080005, b"CS", b"ISO_IR 100", ">")
    + short(0x00080016, b"UI", b"1.2.3\0", ">"),
    "file meta": short(0x00020000, b"UL", b"\x28\0\0\0")
    + short(0x00020010, b"UI", EXPLICIT.encode() + b"\0"),
    "whole file meta": plain()[132:260],
    "data set": meta_of(plain())[2][:128],
    "to the end": CHARACTER_SET + short(0x00080008, b"CS", b"X" * 102),
    "through the prefix": CHARACTER_SET + short(0x00080008, b"CS", b"X" * 106),
}


@pytest.mark.parametrize("preamble", PREAMBLES.values(), ids=PREAMBLES)
def test_any_preamble_is_passed_over(preamble: bytes, tmp_path: Path) -> None:
    data = preamble[:128].ljust(128, b"\0") + plain()[128:]
    assert_plain(data, remark=None)
    assert_as_dcmtk(data, tmp_path)

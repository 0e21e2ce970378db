"""Files whose elements are encoded in odd ways, against their plain twins and DCMTK."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    make_dicom,
    make_lut,
    ramp,
)
from odd_elements import (
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    WINDOW,
    assert_as_dcmtk,
    assert_plain,
    implicit,
    item,
    long,
    meta_of,
    plain,
    read,
    short,
    tag,
    with_elements,
)

from cxrbatch.reading.outcomes import Flag, Outcome

NO_VR = [b"--", b"\0\0", b"  ", b"??", b"us", b"ob", b"01", b"\xff\xfe", b"O "]


@pytest.mark.parametrize("vr", NO_VR)
def test_elements_without_a_valid_vr(vr: bytes, tmp_path: Path) -> None:
    for number, name in ((0x001021B0, "(0010,21B0)"), (0x00111001, "(0011,1001)")):
        for value in (b"", bytes(20), b"G0000 "):
            data = with_elements(plain(), short(number, vr, value))
            assert_plain(data, remark=f"element {name} has no valid value representation")
    assert_as_dcmtk(data, tmp_path)


def test_a_length_that_hides_other_elements_is_not_believed(tmp_path: Path) -> None:
    """Read without VR, the element would end behind the window, at an element as well."""
    data = plain()
    window = data[data.index(tag(0x00281050)) : data.index(tag(0x7FE00010))]
    vr = bytes((len(window), 0))
    data = data.replace(window, short(0x00281040, vr, b"") + window)
    assert_plain(data, remark="element (0028,1040) has no valid value representation")
    assert_as_dcmtk(data, tmp_path)


@pytest.mark.parametrize("vr", [b"OX", b"ZZ", b"ox"])
def test_two_letters_may_be_a_vr_to_come(vr: bytes, tmp_path: Path) -> None:
    data = with_elements(plain(), long(0x00111001, vr, b"G0000 "))
    assert_plain(data, remark="element (0011,1001) has no valid value")
    assert_as_dcmtk(data, tmp_path)


@pytest.mark.parametrize("vr", [b"??", b"--", b"\0\0"])
def test_what_can_be_read_in_no_way_is_named(vr: bytes) -> None:
    reading = read(with_elements(plain(), long(0x001021B0, vr, b"G0000 ")))
    assert (reading.outcome, reading.display) == (Outcome.CORRUPT, None)
    assert "(0010,21B0)" in reading.detail


def test_letters_of_a_value_are_not_taken_for_a_tag() -> None:
    """Reading gets out of step at a wrong length, and comes upon the letters of a name."""
    name = short(0x00100010, b"PN", b"Doe^Jane^of^Nowhere ").replace(b"\x14\0", b"\4\0")
    reading = read(with_elements(plain(), name))
    assert reading.outcome is Outcome.CORRUPT
    assert "unknown tag" in reading.detail
    assert not any(text in reading.detail for text in ("4A5E", "^Jan", "656E", "615E"))


@pytest.mark.parametrize("vr", [b"--", b"\0\0", b"sh"])
def test_an_item_with_an_element_without_a_valid_vr(vr: bytes) -> None:
    good, bad = short(0x00080102, b"SH", b"text"), short(0x00080100, vr, b"text")
    for content in (bad + good, bad, short(0x00080060, b"CS", b"DX") + bad + good):
        value = item(content) + implicit(SEQUENCE_END, b"")
        data = with_elements(plain(), long(0x00081140, b"SQ", value, length=UNDEFINED))
        assert_plain(data, remark="element (0008,0100) has no valid value representation")


def test_the_first_element_without_a_valid_vr_does_not_make_the_file_implicit() -> None:
    start, meta, dataset = meta_of(plain())
    for vr in (b"--", b"\0\0"):
        data = start + meta + short(0x00080005, vr, b"ISO_IR 100") + dataset
        assert_plain(data, remark="element (0008,0005) has no valid value representation")


@pytest.mark.parametrize("delimiter", [ITEM_END, SEQUENCE_END])
def test_stray_delimiters_are_read_over(delimiter: int) -> None:
    data = plain()
    for number in (0x00280002, 0x7FE00010):
        at = data.index(tag(number))
        stray = data[:at] + implicit(delimiter, b"") + data[at:]
        name = f"element ({number >> 16:04X},{number & 0xFFFF:04X})"
        assert_plain(stray, remark=f"{name} is repeated or out of order")


def test_rows_without_a_valid_vr_count() -> None:
    for name in (b"us", b"--", b"\0\0"):
        at = plain().index(tag(0x00280010) + b"US") + 4
        assert_plain(plain()[:at] + name + plain()[at + 2 :], remark="element (0028,0010) has")


@pytest.mark.parametrize("vr", [b"--", b"  ", b"\0\x10"])
def test_a_deflated_element_without_a_valid_vr(vr: bytes, tmp_path: Path) -> None:
    """One way to read its length ends among the pixels, and they lead beyond any limit."""
    cells = np.full((192, 192), 0x0FFF, np.uint16)
    twin = make_dicom(cells, transfer_syntax=DEFLATED, elements=WINDOW)
    start, meta, dataset = meta_of(twin)
    element = short(0x00080001, vr, b"")
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = compressor.compress(element + zlib.decompress(dataset, -zlib.MAX_WBITS))
    data = start + meta + packed + compressor.flush()
    reading = read(data)
    assert (reading.outcome, Flag.NONCONFORMING in reading.flags) == (Outcome.SCORED, True)
    np.testing.assert_array_equal(reading.display, read(twin).display)
    assert_as_dcmtk(data, tmp_path)


@pytest.mark.parametrize("is_first", [True, False])
def test_implicit_elements_in_an_explicit_file(is_first: bool) -> None:
    """GDCM reads them; the first element alone does not make the data set implicit."""
    element = implicit(0x00080001 if is_first else 0x00111001, b"9999")
    data = plain()
    at = data.index(tag(0x00080016)) if is_first else data.index(tag(0x00280002))
    assert_plain(data[:at] + element + data[at:], remark="element (00")


CONTENTS = {
    "empty": b"",
    "items": item(b"") + item(implicit(0x00080100, b"CODE")),
    "defined": item(implicit(0x00080100, b"CODE"), is_defined=True),
    "nested": item(
        implicit(
            0x00400275,
            item(implicit(0x00400007, b"text") + implicit(0x00111001, bytes(8)))
            + implicit(SEQUENCE_END, b""),
            length=UNDEFINED,
        )
    ),
    "delimiters in a value": item(implicit(0x00111001, implicit(SEQUENCE_END, b""))),
}


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_un_of_undefined_length_is_implicit_little_endian(
    transfer_syntax: str, tmp_path: Path
) -> None:
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    for number in (0x00111001, 0x00189810, 0x00081140):
        for content in CONTENTS.values():
            value = content + implicit(SEQUENCE_END, b"")
            element = long(number, b"UN", value, order, UNDEFINED)
            if transfer_syntax == IMPLICIT:
                element = implicit(number, value, length=UNDEFINED)
            data = with_elements(plain(transfer_syntax), element, order=order)
            assert_plain(data, remark=None)
    assert_as_dcmtk(data, tmp_path)


def test_un_of_undefined_length_in_a_sequence_of_a_big_endian_file() -> None:
    inner = CONTENTS["nested"] + implicit(SEQUENCE_END, b"")
    outer = item(long(0x00111001, b"UN", inner, ">", UNDEFINED), ">")
    outer += implicit(SEQUENCE_END, b"", ">")
    data = with_elements(
        plain(BIG_ENDIAN), long(0x00081140, b"SQ", outer, ">", UNDEFINED), order=">"
    )
    assert_plain(data, remark=None)


LUT_ITEMS = {
    is_defined: item(
        implicit(0x00283002, struct.pack("<3H", 4096, 0, 12))
        + implicit(0x00283006, np.arange(4096)[::-1].astype("<u2").tobytes()),
        is_defined=is_defined,
    )
    for is_defined in (True, False)
}


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("number", [0x00283000, 0x00283010])
def test_a_lookup_table_in_un_is_applied(number: int, transfer_syntax: str) -> None:
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    lut = make_lut(np.arange(4096)[::-1].tolist(), first=0, bits=12)
    twin = read(make_dicom(ramp(), elements={number: ("SQ", [lut])}))
    data = make_dicom(ramp(), transfer_syntax=transfer_syntax)
    at = data.index(tag(0x7FE00010, order))
    undefined = LUT_ITEMS[False] + implicit(SEQUENCE_END, b"")
    for element in (
        long(number, b"UN", LUT_ITEMS[True], order),
        long(number, b"UN", undefined, order, UNDEFINED),
    ):
        reading = read(data[:at] + element + data[at:])
        assert reading.facts.voi_source == twin.facts.voi_source
        np.testing.assert_array_equal(reading.display, twin.display)


def test_a_sequence_that_is_encoded_otherwise_is_read_over() -> None:
    value = CONTENTS["nested"] + implicit(SEQUENCE_END, b"")
    data = with_elements(plain(), long(0x00111001, b"SQ", value, length=UNDEFINED))
    assert_plain(data, remark="element (0011,1001) is not encoded as the data set is")


def test_a_sequence_without_items_is_named() -> None:
    value = item(b"") + bytes(16)
    reading = read(with_elements(plain(), long(0x00081140, b"SQ", value, length=UNDEFINED)))
    assert reading.outcome is Outcome.CORRUPT
    assert "(0008,1140)" in reading.detail


def test_an_undefined_length_without_items_ends_at_its_delimiter() -> None:
    value = bytes(70_000) + implicit(SEQUENCE_END, b"")
    data = with_elements(plain(), long(0x00111001, b"OB", value, length=UNDEFINED))
    assert_plain(data, remark="element (0011,1001) has neither length nor items")


def test_of_repeated_elements_the_first_one_counts(tmp_path: Path) -> None:
    data = plain()
    at = data.index(tag(0x00281051))
    again = short(0x00281050, b"DS", b"100 ")
    repeated = data[:at] + again + data[at:]
    assert_plain(repeated, remark="element (0028,1050) is repeated or out of order")
    assert_as_dcmtk(repeated, tmp_path)


def test_elements_out_of_order_and_behind_the_pixel_data(tmp_path: Path) -> None:
    data = plain()
    first, last = data.index(tag(0x00281050)), data.index(tag(0x7FE00010))
    window, rest = data[first:last], data[:first] + data[last:]
    remark = "element (0028,1050) is repeated or out of order"
    assert_plain(rest + window, remark=remark)
    assert_as_dcmtk(rest + window, tmp_path)
    start = rest.index(tag(0x00280002))
    moved = rest[:start] + window + rest[start:]
    assert_plain(moved, remark="element (0028,0002) is repeated or out of order")
    assert_as_dcmtk(moved, tmp_path)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_padding_behind_the_pixel_data(transfer_syntax: str) -> None:
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    padding = long(0xFFFCFFFC, b"OB", bytes(32), order)
    padding = implicit(0xFFFCFFFC, bytes(32)) if transfer_syntax == IMPLICIT else padding
    assert_plain(plain(transfer_syntax) + padding, remark=None)


@pytest.mark.parametrize("behind", [b"\0", bytes(512), b"not an element, but a text" * 9])
def test_stray_bytes_behind_the_pixel_data(behind: bytes) -> None:
    reading = read(plain() + behind)
    assert Flag.NONCONFORMING in reading.flags
    np.testing.assert_array_equal(reading.display, read(plain()).display)


def test_odd_lengths_are_read_over(tmp_path: Path) -> None:
    data = with_elements(plain(), short(0x001021B0, b"LT", b"odd"))
    assert_plain(data, remark="element (0010,21B0) has an odd length")
    assert_as_dcmtk(data, tmp_path)


@pytest.mark.parametrize("length", [0, 99_999, UNDEFINED - 1])
def test_group_lengths_are_not_asked(length: int) -> None:
    start, meta, dataset = meta_of(plain())
    element = short(0x00080000, b"UL", struct.pack("<I", length))
    assert_plain(start + meta + element + dataset, remark=None)

"""Words in coded elements: what they mean, and that no name typed there gets out."""

import json
import struct
from pathlib import Path

import pytest
from makers import DX_IMAGE, EXPLICIT, make_dicom, make_hostile, ramp

from cxrbatch.cli import main
from cxrbatch.reading.dicom.header import _WANTED
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes
from cxrbatch.results.columns import FACTS
from cxrbatch.results.table import open_table

NAME = "MUSTERMANN^MAX"
STORAGE = "1.2.840.10008.5.1.4.1.1."
CHARACTER_SET, MODALITY, BODY_PART, PHOTOMETRIC = 0x00080005, 0x00080060, 0x00180015, 0x00280004
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
SYNTAX = EXPLICIT.encode() + b"\0"


def read(data: bytes, **options: object) -> Reading:
    (reading,) = iterate_radiographs_bytes(data, ReadingOptions(**options))
    return reading


def coded(tag: int, value: bytes, *, character_set: str | None = None, **more: object) -> bytes:
    """A file with any bytes as a code string."""
    value += b" " * (len(value) % 2)
    elements = {tag: ("OB", value)}
    if character_set is not None:
        elements[CHARACTER_SET] = ("CS", character_set.split("\\"))
    data = make_dicom(ramp(), elements=elements, **more)
    name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    old = name + b"OB\0\0" + struct.pack("<I", len(value))
    assert old in data
    return data.replace(old, name + b"CS" + struct.pack("<H", len(value)))


@pytest.mark.parametrize(
    ("modality", "number", "detail"),
    [
        ("DR", "1.1", "modality DR is no term"),
        ("XR", "1.1.1", "modality XR is no term"),
        ("X-RAY", "1", "modality XRAY is no term"),
        ("CR/DX", "1.1", "modality CR/DX is no term"),
        ("CR\\DX", "1.1", "modality CR/DX is no term"),
        ("DR", "7", "modality DR is no term"),
        ("RX", "", "modality RX is no term"),
        ("dx", "1.1", "modality DX is not written in capitals"),
        ("CR", "1.1", "modality CR does not fit"),
        ("RG", "1.1", "modality RG does not fit"),
        ("DX", "2", "modality DX does not fit the SOP class CT Image Storage"),
        ("OT", "1.1", "modality OT does not fit"),
        (NAME, "1.1", "a modality of 14 characters that the standard does not know"),
    ],
)
def test_slips_in_modality_are_scored_and_flagged(modality: str, number: str, detail: str) -> None:
    sop_class = ("UI", f"{STORAGE}{number}" if number else "1.2.3.4")
    reading = read(make_dicom(ramp(), modality=modality, elements={0x00080016: sop_class}))
    assert reading.outcome is Outcome.SCORED
    assert detail in reading.detail
    assert Flag.NONCONFORMING in reading.flags
    assert Flag.MODALITY_MISSING not in reading.flags


@pytest.mark.parametrize(
    ("modality", "number"),
    [("DX", "1.1"), (" DX ", "1.1"), ("CR", "1"), ("DX", "1"), ("RG", "7"), ("CR", "7.3")],
)
def test_what_the_standard_allows_has_no_flag(modality: str, number: str) -> None:
    elements = {0x00080016: ("UI", STORAGE + number)}
    reading = read(make_dicom(ramp(), modality=modality, elements=elements))
    assert reading.outcome is Outcome.SCORED
    assert (reading.detail, Flag.NONCONFORMING in reading.flags) == ("", False)


@pytest.mark.parametrize(
    ("modality", "number", "detail"),
    [
        ("MG", "1.1", "modality MG"),
        ("CT", "1.1", "modality CT"),
        ("ct", "1.1", "modality CT"),
        ("MG", "1", "modality MG"),
        ("PX", "1.1", "modality PX"),
        ("CT/DX", "1.1", "modality CT/DX"),
        ("DR", "2", "modality DR, an object of CT Image Storage"),
        (None, "4", "no modality, an object of MR Image Storage"),
        ("OT", "7", "modality OT"),
        ("UNKNOWN", "7", "a modality of 7 characters that the standard does not know"),
    ],
)
def test_other_kinds_of_images_are_excluded(modality: str | None, number: str, detail: str) -> None:
    elements = {0x00080016: ("UI", STORAGE + number)}
    reading = read(make_dicom(ramp(), modality=modality, elements=elements))
    assert (reading.outcome, reading.detail) == (Outcome.NOT_A_RADIOGRAPH, detail)


def test_a_modality_that_the_user_names_is_scored() -> None:
    accepted = frozenset({"CR", "DX", "RG", "MG", "MYCODE"})
    for code in ("MG", "mycode"):
        reading = read(make_dicom(ramp(), modality=code), modalities=accepted)
        assert (reading.outcome, reading.facts.modality) == (Outcome.SCORED, code.upper())


CHESTS = {
    ("TÓRAX", "utf-8"): "ISO_IR 192",
    ("tórax", "latin-1"): "ISO_IR 100",
    ("TÓRAX", "latin-1 "): None,
    ("ТОРАКС", "iso8859_5"): "ISO_IR 144",
    ("ГРУДНАЯ КЛЕТКА", "cp1251"): None,
    ("ОГК", "utf-8 "): "ISO_IR 100",
    ("胸部", "gb18030"): "GB18030",
    ("胸部", "gb18030 "): "ISO_IR 100",
    ("胸部", "iso2022_jp"): "\\ISO 2022 IR 87",
    ("胸部", "shift_jis"): None,
    ("가슴", "euc_kr"): "\\ISO 2022 IR 149",
    ("ΘΩΡΑΚΑΣ", "iso8859_7"): "ISO_IR 126",
    ("صدر", "iso8859_6"): "ISO_IR 127",
    ("GÖĞÜS", "iso8859_9"): "ISO_IR 148",
    ("PŁUCA", "iso8859_2"): "ISO_IR 101",
    ("ทรวงอก", "tis_620"): "ISO_IR 166",
    **{
        (words, "utf-8  "): "ISO_IR 192"
        for words in (
            *("TORAX", "TORAKS", "Brustkorb", "LUNG", "RIBS", "CHEST PA", "THORAX^AP", "poumon"),
            *(
                "pecho",
                "klatka piersiowa",
                "грудная клетка",
                "органы грудной клетки",
                "Thx",
                "CHST",
            ),
            *("RINTA", "BRÖST", "mellkas", "hrudník", "LỒNG NGỰC", "छाती", "חזה", "قفسه سینه"),
            *("KL. PIERSIOWA", "むね", "きょうぶ", "PHỔI"),
            *("ｷｮｳﾌﾞ", "胸片", "胸廓", "cage thoracique", "HEMITHORAX", "CHESTABDOMEN"),
        )
    },
}


@pytest.mark.parametrize(("written", "character_set"), CHESTS.items())
def test_the_chest_in_other_words_and_scripts(
    written: tuple[str, str], character_set: str | None
) -> None:
    words, codec = written
    value = words.encode(codec.strip())
    if codec == "euc_kr":
        value = b"\x1b$)C" + value
    reading = read(coded(BODY_PART, value, character_set=character_set))
    assert Flag.NOT_CHEST_TAG not in reading.flags
    assert reading.facts.body_part in (words, "CHEST")


@pytest.mark.parametrize(
    "words",
    [
        *("KNEE", "BRUSTWIRBEL", "BRÖSTRYGG", "RINTARANKA", "THORACIC SPINE", "TSPINE", "ABDOMEN"),
        *("колено", "грудной отдел позвоночника", "胸椎", "胸骨", "膝", "흉추", "columna torácica"),
        *("BRUSTBEIN", "فقرات صدرية", "HRUDNÍ PÁTEŘ", "きょうつい", "KRĘGOSŁUP PIERSIOWY", NAME),
    ],
)
def test_other_body_parts_keep_their_flag(words: str) -> None:
    reading = read(coded(BODY_PART, words.encode(), character_set="ISO_IR 192"))
    assert Flag.NOT_CHEST_TAG in reading.flags


@pytest.mark.parametrize(
    "name", [NAME, "CHESTERTON^JOHN", "Lungmann", "CHEST 19450312", "胸田太郎"]
)
def test_a_body_part_keeps_known_words_only(name: str) -> None:
    reading = read(coded(BODY_PART, name.encode(), character_set="ISO_IR 192"))
    assert reading.facts.body_part in (None, "CHEST")


SPELLINGS = ("monochrome2", "MONOCHROME 2", "MONOCHROME_2", "Monochrome-2", "MONO CHROME2")


@pytest.mark.parametrize("written", [*SPELLINGS, "MONOCHROME2\\MONOCHROME2"])
def test_a_misspelt_photometric_interpretation_is_read_and_flagged(written: str) -> None:
    reading = read(make_dicom(ramp(), elements={PHOTOMETRIC: ("CS", written)}))
    plain = read(make_dicom(ramp()))
    assert (reading.display == plain.display).all()
    assert reading.facts.photometric == "MONOCHROME2"
    assert set(reading.flags) == {*plain.flags, Flag.NONCONFORMING}


def test_a_nul_behind_the_photometric_interpretation_is_flagged() -> None:
    reading = read(coded(PHOTOMETRIC, b"MONOCHROME2\0"))
    assert reading.outcome is Outcome.SCORED
    assert Flag.NONCONFORMING in reading.flags
    assert Flag.NONCONFORMING not in read(coded(PHOTOMETRIC, b"MONOCHROME2 ")).flags


@pytest.mark.parametrize("written", ["palette_color", "Palette Color"])
def test_palettes_are_known_as_well(written: str) -> None:
    assert read(make_dicom(ramp(), photometric=written)).facts.photometric == "PALETTE COLOR"


@pytest.mark.parametrize(
    ("written", "detail"),
    [
        ("", "the header has no Photometric Interpretation (0028,0004)"),
        ("HSV", "photometric interpretation HSV"),
        (NAME, "a photometric interpretation of 14 characters that the standard does not know"),
    ],
)
def test_a_photometric_interpretation_that_is_not_read(written: str, detail: str) -> None:
    reading = read(make_dicom(ramp(), photometric=written))
    assert (reading.outcome, reading.detail) == (Outcome.UNSUPPORTED_IMAGE, detail)


def named(tag: int) -> bytes:
    if tag != CHARACTER_SET:
        return coded(tag, NAME.encode())
    known = "ISO 2022 IR 87"
    data = make_dicom(ramp(), elements={CHARACTER_SET: ("CS", known)})
    return data.replace(known.encode(), NAME.encode())


def named_syntax() -> bytes:
    data = make_dicom(ramp())
    assert data.count(SYNTAX) == 1
    return data.replace(SYNTAX, NAME.encode().ljust(len(SYNTAX), b"\0"))


FREE_TEXTS = {0x00080070: "manufacturer", 0x00081090: "model_name"}
PIXELS = (0x7FE00001, 0x7FE00002)
DIRECTORY_RECORDS = 0x00041220


@pytest.mark.parametrize("render_all", [False, True])
def test_a_name_in_any_element_reaches_no_output(render_all: bool) -> None:
    tags = [tag for tag in _WANTED if tag not in PIXELS]
    for tag in (*tags, 0x00100010, 0x00080050):
        for reading in iterate_radiographs_bytes(named(tag), ReadingOptions(render_all=render_all)):
            kept = {name for name in FACTS if "MUSTER" in str(getattr(reading.facts, name))}
            assert kept == {FREE_TEXTS[tag]} if tag in FREE_TEXTS else not kept, hex(tag)
            assert "MUSTER" not in reading.detail, hex(tag)
    reading = read(named_syntax(), render_all=render_all)
    assert "MUSTER" not in repr(reading)
    assert "of 14 characters" in reading.detail


def test_a_name_reaches_no_table_and_no_screen(
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    archive = tmp_path / "archive"
    archive.mkdir()
    tags = [tag for tag in _WANTED if tag not in (*PIXELS, *FREE_TEXTS)]
    for tag in tags:
        (archive / f"{tag:08x}").write_bytes(named(tag))
    (archive / "syntax").write_bytes(named_syntax())
    others = [tag for tag in tags if tag not in (DIRECTORY_RECORDS, CHARACTER_SET)]
    (archive / "all").write_bytes(make_hostile(dict.fromkeys(others, NAME.encode())))
    options = ["-o", str(tmp_path / "t"), "--checkpoint", str(tiny_checkpoint), "--workers", "0"]
    main(["score", str(archive), *options, "--log-format", "json"])
    table = open_table(tmp_path / "t")
    rows = [row for group in table.row_groups() for row in group.to_pylist()]
    assert len(rows) == len(tags) + 2
    assert "MUSTER" not in repr([{k: v for k, v in row.items() if k != "heatmaps"} for row in rows])
    assert b"MUSTER" not in (tmp_path / "t").read_bytes()
    for file in archive.iterdir():
        main(["inspect", str(file), "--json"])
    shown = capfd.readouterr()
    assert "MUSTER" not in shown.out + shown.err


@pytest.mark.parametrize("tag", [0x00280010, 0x00280011, 0x00280101])
def test_a_size_that_no_column_holds_is_a_row(
    tag: int, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    data, number = make_dicom(ramp()), b"99999999999 "
    name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    start = data.index(name + b"US")
    data = data[:start] + name + b"IS\x0c\0" + number + data[start + 10 :]
    (tmp_path / "a").write_bytes(data)
    options = ["-o", str(tmp_path / "t"), "--checkpoint", str(tiny_checkpoint), "--workers", "0"]
    assert main(["score", str(tmp_path / "a"), *options]) == 3
    assert open_table(tmp_path / "t").read(["outcome"]).to_pylist() == [{"outcome": "corrupt"}]


def test_uids_are_whole_or_nothing() -> None:
    for value in (b"1." * 40 + b"1", NAME.encode(), b"1.2\\1.3"):
        assert read(make_hostile({0x0020000D: value})).facts.study_instance_uid is None
    assert json.dumps(read(make_dicom(ramp())).facts.transfer_syntax) == f'"{EXPLICIT}"'
    assert DX_IMAGE.startswith(STORAGE)

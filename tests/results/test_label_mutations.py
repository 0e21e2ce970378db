"""Damaged files of labels: a figure or one line each, and nothing of what stands in their rows."""

import io
import random
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from cxrbatch.errors import LabelError
from cxrbatch.results.frames import load_labels

NUMBER, PERSON, NAME = "ACC7351", "PID90210", "CANARY^HANS"
ROWS = [
    ["Dateiname", "Zugangsnummer", "Patientennummer", "Name", "Befund"],
    *[
        [
            f"{NAME}/{n:02}.dcm",
            f"{NUMBER}{n}",
            f"{PERSON}{n}",
            NAME,
            "kein Befund" if n % 2 else "Covid",
        ]
        for n in range(12)
    ],
]


def csv(separator: str, encoding: str) -> bytes:
    text = "\r\n".join(separator.join(row) for row in ROWS)
    return text.encode(encoding)


def excel() -> bytes:
    book = openpyxl.Workbook()
    for row in ROWS:
        book.active.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def parquet() -> bytes:
    return pd.DataFrame(ROWS[1:], columns=ROWS[0]).to_parquet()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A copy with one kind of damage."""
    at, other = sorted(rng.randrange(len(content)) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[other:]
    if kind == 2:
        return content[:at] + content[at:other] * 2 + content[other:]
    if kind == 3:
        return content[:at] + rng.choice([b'"', b"\0", b"\n", b";", b"\xff", b",,"]) + content[at:]
    spoilt = bytearray(content)
    for _ in range(1 if kind == 4 else 40):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


FORMS = {
    "semicolon": csv(";", "utf-8"),
    "UTF-16": csv("\t", "utf-16"),
    "Windows-1252": csv(",", "cp1252"),
    "Excel": excel(),
    "Parquet": parquet(),
}


def message_of(file: Path) -> str | None:
    try:
        load_labels(file)
    except LabelError as error:
        return str(error)
    return None


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_gives_labels_or_one_line_without_its_text(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    rng = random.Random(7)
    messages = []
    for _ in range(60):
        (tmp_path / "l").write_bytes(mutated(FORMS[form], rng))
        messages.append(message_of(tmp_path / "l"))
    refused = [message for message in messages if message is not None]
    assert refused
    for message in refused:
        assert "\n" not in message
        assert not any(text in message for text in ("7351", "90210", "CANARY", "HANS"))


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[1:],
        [ROWS[0], *ROWS[1:3], [*ROWS[1][:4], "Covid"]],
        [ROWS[0], ROWS[1][1:]],
        [ROWS[0][:4], *ROWS[1:]],
        [[*ROWS[0], "split"], [*ROWS[1], NAME]],
        [ROWS[0], ["", "", *ROWS[1][2:]]],
        [ROWS[0][1:4], *[row[1:4] for row in ROWS[1:]]],
        [["Dateiname", "Bild", *ROWS[0][2:]], *ROWS[1:]],
        [ROWS[0], ["\0" + NAME, "\0", *ROWS[1][2:]]],
        [ROWS[0], [ROWS[1][0], NUMBER, f"{PERSON}\0", NAME, "Covid"]],
    ],
    ids=range(10),
)
def test_no_error_shows_a_cell(
    tmp_path: Path, rows: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "l").write_text("\n".join(map(";".join, rows)))
    message = message_of(tmp_path / "l")
    if message is None:
        frame = load_labels(tmp_path / "l")
        assert (
            not frame.astype(str).apply(lambda column: column.str.contains("7351")).any(axis=None)
        )
    else:
        assert str(tmp_path / "l") in message
        assert not any(text in message for text in ("7351", "90210", "CANARY", "HANS"))


def workbook_with(part: str, content: bytes) -> bytes:
    """A sound workbook, one part of which has another content."""
    stream = io.BytesIO()
    sound = zipfile.ZipFile(io.BytesIO(FORMS["Excel"]))
    with sound, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as changed:
        for name in dict.fromkeys([*sound.namelist(), part]):
            changed.writestr(name, content if name == part else sound.read(name))
    return stream.getvalue()


SHEET = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'


@pytest.mark.parametrize(
    ("part", "content", "expected"),
    [
        (
            "xl/worksheets/sheet1.xml",
            SHEET + b'<row r="1"><c>' + b"<f/>" * 1_000_000,
            "larger Excel",
        ),
        ("xl/worksheets/sheet1.xml", SHEET + b"<row/>" * 1_100_000, "larger Excel file"),
        ("xl/sharedStrings.xml", b"<sst><si><t>" + b"x" * 4_000_000, "larger Excel file"),
        ("xl/styles.xml", b"<styleSheet>" + b"<xf/>" * 700_000, "larger Excel file"),
        ("xl/workbook.xml", b"<workbook><sheets>" + b"<sheet />" * 65, "larger Excel file"),
        (
            "xl/sharedStrings.xml",
            b'<!DOCTYPE a [<!ENTITY b "c">]><sst/>',
            "XML that Excel does not",
        ),
        ("xl/sharedStrings.xml", "<sst/>".encode("utf-16"), "XML that Excel does not write"),
        (
            "xl/worksheets/sheet1.xml",
            SHEET + b"</sheetData></worksheet>",
            "is an Excel file without",
        ),
        ("[Content_Types].xml", b"", "is not a whole Excel file"),
    ],
)
def test_a_workbook_that_would_fill_memory_is_refused(
    tmp_path: Path, part: str, content: bytes, expected: str
) -> None:
    (tmp_path / "l").write_bytes(workbook_with(part, content))
    assert expected in (message_of(tmp_path / "l") or "")


def test_rows_far_down_a_sheet_cost_nothing(tmp_path: Path) -> None:
    rows = b'<row r="1"><c r="A1" t="inlineStr"><is><t>path</t></is></c>'
    rows += b'<c r="IV1" t="inlineStr"><is><t>label</t></is></c></row><row r="900000">'
    rows += b'<c r="A900000" t="inlineStr"><is><t>a</t></is></c>'
    rows += b'<c r="IV900000" t="inlineStr"><is><t>A</t></is></c></row><row r="99999999999"/>'
    sheet = SHEET + rows + b"</sheetData></worksheet>"
    (tmp_path / "l").write_bytes(workbook_with("xl/worksheets/sheet1.xml", sheet))
    frame = load_labels(tmp_path / "l")
    assert (frame.index.tolist(), frame["label"].tolist()) == ([900_000], ["A"])

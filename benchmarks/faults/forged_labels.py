"""Forged files of labels, and damaged ones."""

import io
import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pandas as pd
from forged_tables import Forged
from raw_parquet import (
    DICTIONARY,
    RLE_DICTIONARY,
    RawColumn,
    RawPage,
    differences,
    levels,
    lying,
    nulls,
    plain_texts,
    raw_file,
    repeated,
    texts,
    varint,
)


def forged_labels() -> Forged:
    """Every file of labels that is forged."""

    def raw(path: Path, pages: list[RawPage], rows: int) -> None:
        label = repeated(b"Normal", rows)
        columns = [RawColumn("path", pages), RawColumn("label", label)]
        path.write_bytes(raw_file(columns, rows))

    for length in (1, 1000, 60_000, 300_000, 8_000_000):
        yield (
            f"{length:,} characters times 20 million",
            lambda p, n=length: raw(p, repeated(b"x" * n, 20_000_000), 20_000_000),
        )
    yield "5 GB of plain texts", lambda p: raw(p, plain_texts(5000), 5000)
    yield (
        "plain texts of 60 kB",
        lambda p: raw(
            p, [RawPage(levels(1) + texts([b"x" * 60_000]), 1, codec="zstd")] * 20_000, 20_000
        ),
    )
    yield (
        "a page of 2 GB that is there",
        lambda p: raw(p, [RawPage(levels(1) + texts([bytes(2_000_000_000)]), 1, codec="zstd")], 1),
    )
    yield (
        "a page of 200 MB with one last long text",
        lambda p: raw(
            p,
            [
                RawPage(
                    levels(1001) + texts([b"a"] * 1000 + [bytes(200_000_000)]), 1001, codec="zstd"
                )
            ],
            1001,
        ),
    )
    yield "a page that claims 2 GB", lambda p: raw(p, lying({2: (1 << 31) - 1}), 10)
    yield (
        "a page that claims 2 billion values",
        lambda p: raw(p, lying({5: {1: (1 << 31) - 1, 2: 0, 3: 3, 4: 3}}), 10),
    )
    yield (
        "texts by difference, 5 MB a page",
        lambda p: raw(p, [differences(5_000_000)] * 500, 1000),
    )
    yield (
        "a dictionary of 60 million empty texts",
        lambda p: raw(
            p,
            [
                RawPage(bytes(4 * 60_000_000), 60_000_000, kind=DICTIONARY, codec="zstd"),
                repeated(b"a", 10)[1],
            ],
            10,
        ),
    )
    yield "a large dictionary and dense plain pages", lambda p: raw(
        p,
        [
            RawPage(texts([b"%07d" % i for i in range(200_000)]), 200_000, kind=DICTIONARY,
                    codec="zstd"),
            *[RawPage(levels(1) + bytes([18]) + varint(2) + b"\1\0\0", 1, RLE_DICTIONARY,
                      codec="zstd")] * 20_000,
        ],
        20_000,
    )  # fmt: skip
    yield "null rows, 2 billion", lambda p: raw(p, nulls(2_000_000_000), 2_000_000_000)
    yield (
        "a million different labels",
        lambda p: _csv(p, (f"{i},{i:x}\n" for i in range(1_000_000))),
    )
    yield (
        "a million rows without a file",
        lambda p: _csv(p, (f"folder/{i:060d}.png,{'AB'[i % 2]}\n" for i in range(1_000_000))),
    )
    yield (
        "five million rows",
        lambda p: _csv(p, (f"folder/{i:060d}.png,{'AB'[i % 2]}\n" for i in range(5_000_000))),
    )
    yield (
        "two million rows, each twice",
        lambda p: _csv(p, (f"folder/{i // 2:060d}.png,{'AB'[i % 2]}\n" for i in range(2_000_000))),
    )
    yield "one line of 20 GB", lambda p: _sparse(p, b"")
    yield "20 GB behind a row", lambda p: _sparse(p, b"path,label\na,A\n")
    yield "a quoted field without end", lambda p: _csv(p, iter(['"' + "x\n" * 5_000_000]))
    yield "a row of endless quoted fields", lambda p: _csv(p, iter(['"x\n",' * 5_000_000]))
    yield "a row of commas", lambda p: _csv(p, iter(["," * 200_000_000]))
    yield "blank rows", lambda p: _csv(p, iter(["a,A\n" + "\n" * 200_000_000]))
    yield "NULs in fields", lambda p: _csv(p, iter(["a\0b,A\n", "c,B\0\n"]))
    yield "blank rows with commas", lambda p: _csv(p, iter(["a,A\n", ",\n" * 50_000_000]))
    yield (
        "five million rows in UTF-16",
        lambda p: p.write_bytes(
            "path;label\n".encode("utf-16")
            + b"".join(f"{i:060d}.png;A\n".encode("utf-16-le") for i in range(5_000_000))
        ),
    )
    yield from _workbooks()


_SHEET = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
_HEAD = (
    b'<row r="1"><c r="A1" t="inlineStr"><is><t>path</t></is></c>'
    b'<c r="IV1" t="inlineStr"><is><t>label</t></is></c></row>'
)
_STRINGS = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'


def _workbooks() -> Forged:
    """Excel files whose parts are small in the zip and large in memory."""
    for what, part, start, item, count in (
        (
            "a million rows of nothing",
            "xl/worksheets/sheet1.xml",
            _SHEET + _HEAD,
            b"<row/>",
            1 << 20,
        ),
        (
            "a million rows of attributes",
            "xl/worksheets/sheet1.xml",
            _SHEET + _HEAD,
            b'<row ht="1" customHeight="1" a="bcdefghijklmnopqrst" u="vwxyzabcdefghijklm"/>',
            1_000_000,
        ),
        (
            "a million rows of two texts",
            "xl/worksheets/sheet1.xml",
            _SHEET + _HEAD,
            b'<row><c t="inlineStr"><is><t>abcdefghij</t></is></c><c r="IV2" t="inlineStr"><is>'
            b"<t>A</t></is></c></row>",
            1_000_000,
        ),
        ("a row of a billion cells", "xl/worksheets/sheet1.xml", _SHEET + b"<row>", b"<c/>", 10**9),
        (
            "four million shared texts",
            "xl/sharedStrings.xml",
            _STRINGS,
            b"<si><t>ab</t></si>",
            1 << 22,
        ),
        (
            "shared texts of 250 MB",
            "xl/sharedStrings.xml",
            _STRINGS,
            b"<si><t>" + b"x" * 1000 + b"</t></si>",
            250_000,
        ),
        (
            "one shared text of 1 GB",
            "xl/sharedStrings.xml",
            _STRINGS + b"<si><t>",
            b"x" * 1000,
            10**6,
        ),
        ("a million styles", "xl/styles.xml", b"<styleSheet><cellXfs>", b"<xf/>", 10**6),
        ("sheets without end", "xl/workbook.xml", b"<workbook><sheets>", b"<sheet />", 200_000),
    ):
        yield (
            f"Excel: {what}",
            lambda p, part=part, start=start, item=item, count=count: _workbook(
                p, part, start, item, count
            ),
        )


def _workbook(path: Path, part: str, start: bytes, item: bytes, count: int) -> None:
    """Write a workbook with one part that holds an item many times."""
    sound = io.BytesIO()
    openpyxl.Workbook().save(sound)
    most = max(1, (1 << 20) // len(item))
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name != part:
                new.writestr(name, old.read(name))
        with new.open(part, "w", force_zip64=True) as stream:
            stream.write(start)
            for first in range(0, count, most):
                stream.write(item * min(most, count - first))
            if b"<sheetData>" in start:
                stream.write(b"</sheetData></worksheet>")
            elif start.startswith(b"<sst"):
                stream.write(b"</sst>")


def damaged_labels(rows: list[tuple[str, str]], count: int, seed: int) -> Forged:
    """Yield `count` damaged copies of a file of labels, in turn of each form.

    Args:
        rows: Path and label of each image.
        count: Number of files.
        seed: Seed of the damage.
    """
    rng = random.Random(seed)
    table = pd.DataFrame(rows, columns=["path", "label"])
    excel, parquet = io.BytesIO(), io.BytesIO()
    table.to_excel(excel, index=False)
    table.to_parquet(parquet)
    forms = {
        "CSV": table.to_csv(index=False).encode(),
        "UTF-16": table.to_csv(index=False, sep="\t").encode("utf-16"),
        "Windows-1252": table.to_csv(index=False, sep=";").encode("cp1252"),
        "Excel": excel.getvalue(),
        "Parquet": parquet.getvalue(),
    }
    for number in range(count):
        form = [*forms][number % len(forms)]
        content = _damaged(forms[form], rng)
        yield f"damaged {form} {number}", lambda p, content=content: p.write_bytes(content)


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy that is cut, has a part twice, lacks one, or has other bytes."""
    at, other = sorted(rng.randrange(len(content)) for _ in range(2))
    kind = rng.randrange(5)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[other:]
    if kind == 2:
        return content[:at] + content[at:other] * 2 + content[other:]
    if kind == 3:
        return content[:at] + rng.choice([b'"', b"\0", b"\n", b";", b"\xff", b",,"]) + content[at:]
    spoilt = bytearray(content)
    for _ in range(rng.choice([1, 40])):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


def _csv(path: Path, rows: Iterator[str]) -> None:
    with path.open("w") as file:
        file.write("path,label\n")
        file.writelines(rows)


def _sparse(path: Path, head: bytes) -> None:
    path.write_bytes(head)
    os.truncate(path, 20 << 30)

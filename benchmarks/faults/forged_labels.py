"""Forged files of labels."""

import os
from collections.abc import Iterator
from pathlib import Path

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


def _csv(path: Path, rows: Iterator[str]) -> None:
    with path.open("w") as file:
        file.write("path,label\n")
        file.writelines(rows)


def _sparse(path: Path, head: bytes) -> None:
    path.write_bytes(head)
    os.truncate(path, 20 << 30)

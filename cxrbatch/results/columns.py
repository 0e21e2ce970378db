"""The data contract: names and types of a results table's columns, and how rows are written.

A table has one row per file, or per frame of a multi-frame file. Keys stand for the patient and
the study of a row: keyed hashes, from which nobody without the secret gets to the ids.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.reading.readings import HeaderFacts

SCHEMA_VERSION = "2.2"
PROVENANCE_KEY = b"cxrbatch"

_INTEGERS = frozenset({"rows", "columns", "bits_stored"})
# A field without a repr never enters a table: of ids there are keyed hashes.
FACTS = tuple(f.name for f in fields(HeaderFacts) if f.repr)

Facts: TypeAlias = tuple[str | int | None, ...]
"""Header values that a table may hold, in the order of `FACTS`; None where the header lacks one."""

TRUTH_COLUMNS = ("truth", "split")
"""Further columns of a table that was made with labels: text, null where unknown."""
FOLD_COLUMN = "fold"
"""A further column of a table that several checkpoints scored: the number of a row's, from 1."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Scores of one image by a model of c classes.

    Attributes:
        logits: Shape (c,), float32.
        probabilities: Shape (c,), float32.
        heatmaps: c * h * w bytes: one map of h rows and w columns per class, one after another.
        heatmap_scale: A cell of a heat map has the value byte * `heatmap_scale` / 255.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: bytes
    heatmap_scale: float


class Row(NamedTuple):
    """The values of one row of a results table without its scores: one file, or one frame of it.

    A tuple, as millions of rows travel between processes.

    Attributes:
        path: Relative to the archive's root, see `cxrbatch.files`.
        frame: Number of the frame in the file, from 0.
        file_size: In bytes.
        file_modified_ns: Modification time of the file, nanoseconds since 1970: what an archive
            says of its copy, not a date of the patient's.
        format: "dicom", "png", "jpeg" or "other".
        outcome: An outcome code: "scored", or why the image has no score.
        detail: One line for a person; empty if there is nothing to add.
        image_hash: Hash of the model's input; None without an image.
        dhash: 64-bit difference hash as 16 hexadecimal digits; None without an image.
        image_flags: Codes of remarks on the image.
        patient_key: Keyed hash of the patient id; None where there is none.
        accession_key: Keyed hash of the accession number; None where there is none.
        facts: Header values, as `facts_of` returns them.
    """

    path: str
    frame: int
    file_size: int
    file_modified_ns: int
    format: str
    outcome: str
    detail: str
    image_hash: str | None
    dhash: str | None
    image_flags: tuple[str, ...]
    patient_key: str | None
    accession_key: str | None
    facts: Facts


def facts_of(header: HeaderFacts) -> Facts:
    """Return the header values that a table may hold, in the order of `FACTS`.

    The patient's id, its issuer and the accession number are left out.
    """
    return cast(Facts, _facts_of(header))


_facts_of = attrgetter(*FACTS)


def table_schema(classes: Sequence[str], *, heatmap_size: int, labelled: bool = False) -> pa.Schema:
    """Return the Arrow schema of a results table: the names and types of its columns, in order.

    Args:
        classes: Class names in the order of the logits; each has a column for its probability
            (`p_<class>`) and one for its logit (`logit_<class>`).
        heatmap_size: Height and width of one heat map in cells.
        labelled: Whether the columns `TRUTH_COLUMNS` are added at the end.

    Raises:
        ValueError: `heatmap_size` is not a positive whole number.
    """
    if type(heatmap_size) is not int or heatmap_size < 1:
        raise ValueError("a heat map has a whole number of cells")
    heatmaps = len(classes) * heatmap_size**2
    columns = [
        ("path", pa.string()),
        ("frame", pa.int32()),
        ("file_size", pa.int64()),
        ("file_modified_ns", pa.int64()),
        ("format", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("prediction", pa.string()),
        *((f"p_{name}", pa.float32()) for name in classes),
        *((f"logit_{name}", pa.float32()) for name in classes),
        ("heatmaps", pa.binary(heatmaps)),
        ("heatmap_scale", pa.float32()),
        ("image_hash", pa.string()),
        ("dhash", pa.string()),
        ("image_flags", pa.list_(pa.string())),
        ("ood_score", pa.float32()),
        ("patient_key", pa.string()),
        ("accession_key", pa.string()),
        *((name, pa.int32() if name in _INTEGERS else pa.string()) for name in FACTS),
        *((name, pa.string()) for name in (TRUTH_COLUMNS if labelled else ())),
    ]
    return pa.schema(columns)


def record_batch(
    scored: Sequence[tuple[Row, ImageScores | None]], *, classes: Sequence[str], schema: pa.Schema
) -> pa.RecordBatch:
    """Convert rows and their scores to an Arrow record batch.

    Args:
        scored: Pairs of a row and its scores; None instead of the scores if the row was not
            scored: its columns of scores are then null.
        classes: Class names in the order of the logits.
        schema: As `table_schema` returns it without the columns `TRUTH_COLUMNS`.

    Returns:
        The columns of `schema`, one row per entry of `scored`. `prediction` is the most probable
        class, the first of several equal ones; `ood_score` is always null.
    """
    rows = [row for row, _ in scored]
    columns: dict[str, list[Any]] = {
        **{name: [row[place] for row in rows] for place, name in enumerate(Row._fields)},
        **{name: [row.facts[place] for row in rows] for place, name in enumerate(FACTS)},
        **_score_columns([score for _, score in scored], classes),
        "ood_score": [None] * len(rows),
    }
    arrays = [column_of(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _score_columns(
    scores: Sequence[ImageScores | None], classes: Sequence[str]
) -> dict[str, list[Any]]:
    # Lists: one by one, Python's numbers are several times as fast as numpy's.
    nothing = [None] * len(classes)
    probabilities = [nothing if s is None else s.probabilities.tolist() for s in scores]
    logits = [nothing if s is None else s.logits.tolist() for s in scores]
    return {
        "prediction": [None if p is nothing else classes[p.index(max(p))] for p in probabilities],
        **{f"p_{name}": [p[i] for p in probabilities] for i, name in enumerate(classes)},
        **{f"logit_{name}": [values[i] for values in logits] for i, name in enumerate(classes)},
        "heatmaps": [s and s.heatmaps for s in scores],
        "heatmap_scale": [s and s.heatmap_scale for s in scores],
    }


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert the values of one column to an Arrow array of type `kind`; None becomes null.

    Args:
        values: Numbers, texts, bytes of the type's length, or lists of texts, as `kind` asks.
        kind: A number type, string, binary of a fixed length, or list of string.

    Raises:
        OverflowError: A whole number is out of the range of an integer type.
        UnicodeEncodeError: A text has no UTF-8.
        ValueError: Bytes are not of the type's length.
    """
    # Not by `pyarrow.array`, which imports pandas: 0.4 s, as long as scoring some dozen images.
    nulls = values.count(None)
    if nulls == len(values):
        return pa.nulls(nulls, kind)
    validity = _validity(values) if nulls else None
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        content = [_offsets(encoded), pa.py_buffer(b"".join(encoded))]
    elif pa.types.is_fixed_size_binary(kind):
        nothing = bytes(kind.byte_width)
        cells = [nothing if value is None else value for value in values]
        if any(len(cell) != kind.byte_width for cell in cells):
            raise ValueError(f"bytes are not {kind.byte_width} long")
        content = [pa.py_buffer(b"".join(cells))]
    elif pa.types.is_list(kind):
        lists = [value or () for value in values]
        inner = column_of(list(chain.from_iterable(lists)), kind.value_type)
        buffers = [validity, _offsets(lists)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=[inner])
    else:
        numbers = [0 if value is None else value for value in values]
        content = [pa.py_buffer(np.array(numbers, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), [validity, *content])


def _offsets(values: Sequence[Sequence[Any]]) -> pa.Buffer:
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=ends[1:])
    return pa.py_buffer(ends)


def _validity(values: Sequence[Any]) -> pa.Buffer:
    is_there = np.fromiter((value is not None for value in values), bool, len(values))
    return pa.py_buffer(np.packbits(is_there, bitorder="little"))


_SECRET_BYTES = 32
_KEY_HEX_DIGITS, _ID_HEX_DIGITS = 32, 16

# What de-identification and registration write instead of an id, without case, blanks and
# punctuation. A number other than zero may be the id of a person, however short it is.
_NOBODY = re.compile(
    "|".join(
        (
            *("0*", "x*", "na", "nan", "nil", "none", "null", "empty", "blank", "missing"),
            *("un(known|named|specified|defined|identified|available)", "not?(available|known)"),
            *("no(name|id|patient|patientid)", "(patient|pat|subject)?(id|name)?", "default"),
            *("(anon(ym)?(ous|i[sz]ed|i[sz]e)?)(patient|subject|name|id)?", "test(patient)?"),
            *("de?identified", "pseudonymi[sz]ed", "removed", "redacted", "deleted", "hidden"),
        )
    )
)


def secret_file() -> Path:
    """Return the path of the file that contains the user's patient secret; it need not exist.

    It is cxrbatch/patient-secret in the folder XDG_CONFIG_HOME, or in ~/.config without that.

    Raises:
        RuntimeError: The user's home folder cannot be found.
    """
    configured = os.environ.get("XDG_CONFIG_HOME")
    base = Path(configured) if configured else Path.home() / ".config"
    return base / "cxrbatch" / "patient-secret"


def patient_secret() -> bytes | None:
    """Read the user's patient secret; create it at first use, readable by the user alone.

    It is the key of the hashes `patient_key` and `accession_key`, and stays with the user alone.

    Returns:
        32 bytes; None if the file can neither be read nor created, or has another length.
    """
    try:
        file = secret_file()
        if not file.exists():
            _create_secret(file)
        secret = file.read_bytes()
    except (OSError, RuntimeError):
        return None
    return secret if len(secret) == _SECRET_BYTES else None


def secret_id(secret: bytes) -> str:
    """Compute 16 hexadecimal digits that identify a patient secret without revealing it.

    Two tables with the same digits have the same key for the same patient and the same study. A
    table's provenance has them as `patient_secret_id`.
    """
    return hmac.new(secret, b"id", hashlib.sha256).hexdigest()[:_ID_HEX_DIGITS]


def patient_key(facts: HeaderFacts, secret: bytes) -> str | None:
    """Compute a keyed hash of the patient id in a header; it stands for the patient in tables.

    Args:
        facts: Patient ID (0010,0020) and its Issuer (0010,0021) are hashed together.
        secret: From `patient_secret`.

    Returns:
        32 hexadecimal digits; None if there is no id, or only one that `is_placeholder`.
    """
    if facts.patient_id is None or is_placeholder(facts.patient_id):
        return None
    # Header text is printable, so the line break keeps id and issuer apart.
    identity = "\n".join(filter(None, (facts.patient_id, facts.patient_issuer)))
    return hmac.new(secret, identity.encode(), hashlib.sha256).hexdigest()[:_KEY_HEX_DIGITS]


def accession_key(number: str | None, secret: bytes) -> str | None:
    """Compute a keyed hash of an accession number; it stands for the study in tables.

    Equal numbers have equal keys under one secret, whoever issued them: who has a list of numbers
    seldom has their issuer.

    Args:
        number: Accession Number (0008,0050), or a number of a list; blanks around it do not count.
        secret: From `patient_secret`.

    Returns:
        32 hexadecimal digits; None if there is no number, or only one that `is_placeholder`.
    """
    plain = (number or "").strip()
    if is_placeholder(plain):
        return None
    # No patient's identity begins with a line break, so no study has the key of a patient.
    return hmac.new(secret, f"\n{plain}".encode(), hashlib.sha256).hexdigest()[:_KEY_HEX_DIGITS]


def is_placeholder(identifier: str) -> bool:
    """Whether an id names no one, such as "", 0 or unknown, in any case, spacing, punctuation."""
    plain = "".join(c for c in identifier.casefold() if c.isalnum())
    return _NOBODY.fullmatch(plain) is not None


def _create_secret(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
        # Not `written_whole`: a link never replaces, so that two first runs at the same time read
        # the same secret.
        with contextlib.suppress(FileExistsError):
            os.link(partial, file)
    finally:
        partial.unlink(missing_ok=True)

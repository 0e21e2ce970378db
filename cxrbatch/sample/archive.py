"""Writes the sample archive: phantoms, real radiographs, broken and foreign files, labels.csv.

The phantoms are drawings, not patients: the archive is for trying and testing the program, and
labels.csv says what was drawn. Real radiographs come from the package pydicom-data, unchanged and
without a label. Each file, labels.csv included, becomes a row when the archive is scored
(labels.csv as `not_an_image`).

With the same versions of the libraries every run writes the same bytes: seeds, UIDs and dates are
fixed.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.sample.dicom_writer import Wrapping, dicom_bytes, jpeg_bytes
from cxrbatch.sample.foreign import broken_files, foreign_files
from cxrbatch.sample.grey import Grey, Stored, Voi
from cxrbatch.sample.plan import PERSONS, PhantomFile, Picture, Raster, phantom_files
from cxrbatch.sample.projection import Plane

LABELS = "labels.csv"

REAL_RADIOGRAPHS = (
    "RG1_J2KI.dcm",
    "RG1_J2KR.dcm",
    "RG1_UNCR.dcm",
    "RG3_J2KI.dcm",
    "RG3_J2KR.dcm",
    "RG3_UNCR.dcm",
)
"""The radiographs in pydicom-data: RG1 a chest, RG3 a lower leg, uncompressed and as JPEG 2000 with
and without loss. Their `_UNCI` twins (13 MB) would add no encoding."""

DICOM, PNG, JPEG = "phantoms as DICOM", "phantoms as PNG", "phantoms as JPEG"
REAL, BROKEN, FOREIGN = "real radiographs (pydicom-data)", "broken files", "foreign files"
KINDS = (DICOM, PNG, JPEG, REAL, BROKEN, FOREIGN, LABELS)
"""Kinds of file, as the summary counts them."""

Content = tuple[str, str, bytes]
"""Path relative to the archive with forward slashes, kind of file, bytes."""


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What was written.

    Attributes:
        directory: Where.
        kinds: Kind of file to number of files, each of `KINDS`; they sum to all files.
        labelled: Rows of labels.csv.
        size: Bytes in all.
        remark: One line on what was left out; empty where nothing was.
    """

    directory: Path
    kinds: Mapping[str, int]
    labelled: int
    size: int
    remark: str

    @property
    def files(self) -> int:
        """Number of files, labels.csv included."""
        return sum(self.kinds.values())


def write_sample(directory: Path) -> SampleSummary:
    """Write the sample archive.

    Args:
        directory: Made where it is missing; must be empty where it is not.

    Returns:
        The counts.

    Raises:
        UsageError: If `directory` is a file, or holds something.
        CxrbatchError: If the disk refuses a file; what was written until then stays.
    """
    kinds: Counter[str] = Counter()
    size = 0
    real = _real_folder()
    try:
        _require_empty(directory)
        for path, kind, content in _contents(real):
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            kinds[kind] += 1
            size += len(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CxrbatchError(
            f"the sample archive could not be written to {directory}: {reason}; "
            "name another directory, or make room and start with an empty one"
        ) from error
    return SampleSummary(
        directory=directory,
        kinds={kind: kinds[kind] for kind in KINDS},
        labelled=len(_label_rows()),
        size=size,
        remark="" if real else "real radiographs left out: pip install 'cxrbatch[sample]'",
    )


def _require_empty(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; name a new or empty directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty; name a new or empty directory")


def _contents(real: Path | None) -> Iterator[Content]:
    """All files one after the other, with one person's drawings in memory at a time."""
    draw = lru_cache(maxsize=4)(Picture.draw)
    samples: dict[str, bytes] = {}
    for file in phantom_files():
        drawings = [draw(picture) for picture in file.pictures]
        kind, content = _phantom_bytes(file, drawings)
        samples.setdefault(kind, content)
        yield file.path, kind, content
    if real is not None:
        for name in REAL_RADIOGRAPHS:
            yield f"real/{name}", REAL, (real / name).read_bytes()
    broken = broken_files(dicom=samples[DICOM], png=samples[PNG])
    for path, content in broken.items():
        yield path, BROKEN, content
    for path, content in foreign_files(PERSONS[0]).items():
        yield path, FOREIGN, content
    yield LABELS, LABELS, _labels_csv()


def _phantom_bytes(file: PhantomFile, drawings: list[Plane]) -> tuple[str, bytes]:
    """Kind and content of one phantom file."""
    if isinstance(file.wrapping, Wrapping):
        instance = file.path.rpartition("/")[2]
        content = dicom_bytes(
            drawings, file.person, file.wrapping, study=file.study, instance=instance
        )
        return DICOM, content
    bits = 16 if file.wrapping is Raster.PNG16 else 8
    stored = Grey(bits=bits, voi=Voi.NONE).store(drawings[0])
    if file.wrapping is Raster.JPEG:
        return JPEG, jpeg_bytes(stored)
    return PNG, _png_bytes(stored)


def _png_bytes(grey: Stored) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG")
    return stream.getvalue()


def _label_rows() -> list[tuple[str, str, str]]:
    """Path, label and patient of each phantom of a chest, sorted by path."""
    rows = [
        (file.path, file.label, file.person.patient_id)
        for file in phantom_files()
        if file.label is not None
    ]
    return sorted(rows)


def _labels_csv() -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "label", "patient"))
    writer.writerows(_label_rows())
    return stream.getvalue().encode()


def _real_folder() -> Path | None:
    """Folder of pydicom-data's files; None where the package is not installed or lacks them."""
    spec = importlib.util.find_spec("data_store")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "data"
    return folder if all((folder / name).is_file() for name in REAL_RADIOGRAPHS) else None

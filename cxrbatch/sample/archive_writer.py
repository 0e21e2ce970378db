"""Writes the sample archive: phantoms, real radiographs, broken and foreign files, labels.csv.

The phantoms are drawings, not patients: the archive is for trying and testing the program, and
labels.csv says what was drawn. Real radiographs come from the package pydicom-data, unchanged and
without a label. When the archive is scored, labels.csv becomes a row, too (`not_an_image`).

With the same versions of the libraries every run writes the same bytes: seeds, UIDs and dates are
fixed.
"""

import csv
import importlib.util
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import pydicom.uid as uids
from PIL import Image

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.sample.dicom_writer import (
    DicomPacking,
    GreyEncoding,
    Person,
    VoiKind,
    dicom_bytes,
    jpeg_bytes,
)
from cxrbatch.sample.other_files import broken_files, foreign_files
from cxrbatch.sample.phantom import (
    CLASSES,
    PhantomRequest,
    draw_forearm,
    draw_frontal,
    draw_lateral,
)
from cxrbatch.sample.projection import Detector, Plane

LABELS = "labels.csv"
REAL_RADIOGRAPHS = tuple(
    f"{image}_{form}.dcm" for image in ("RG1", "RG3") for form in ("J2KI", "J2KR", "UNCR")
)
"""The radiographs in pydicom-data: RG1 a chest, RG3 a lower leg, uncompressed and as JPEG 2000 with
and without loss. Their `_UNCI` twins (13 MB) would add no encoding."""

DICOM, PNG, JPEG = "phantoms as DICOM", "phantoms as PNG", "phantoms as JPEG"
REAL, BROKEN, FOREIGN = "real radiographs (pydicom-data)", "broken files", "foreign files"
KINDS = (DICOM, PNG, JPEG, REAL, BROKEN, FOREIGN, LABELS)
"""Kinds of file, in the order of the summary."""


class RasterFormat(StrEnum):
    """Formats of phantom files that are no DICOM."""

    PNG8 = "8-bit grey PNG"
    PNG16 = "16-bit grey PNG"
    JPEG = "8-bit grey JPEG"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One image to draw; files of equal drawings differ only in how they store them.

    Attributes:
        view: Function that draws it: `draw_frontal`, `draw_lateral` or `draw_forearm`.
        request: What to draw: class, person, size and visit.
    """

    view: Callable[[PhantomRequest], Plane]
    request: PhantomRequest

    def draw(self) -> Plane:
        """Draw the image: shape (rows, columns), float64 in [0, 1], 1 is white."""
        return self.view(self.request)


@dataclass(frozen=True, slots=True)
class PhantomFile:
    """One file of the archive with a phantom: a drawn radiograph of an invented person.

    Attributes:
        path: Relative to the archive, with forward slashes.
        person: The invented patient.
        drawings: One for each frame; a raster file has one.
        packing: How a DICOM file is packed, or the format of a raster file.
    """

    path: str
    person: Person
    drawings: tuple[Drawing, ...]
    packing: DicomPacking | RasterFormat

    @property
    def label(self) -> str | None:
        """The class of the person in the first frame, one of `CLASSES`; None for a forearm."""
        first = self.drawings[0]
        return None if first.view is draw_forearm else first.request.label

    @property
    def study(self) -> int:
        """Number of the person's study, from 1: one for each visit."""
        return self.drawings[0].request.visit


PERSONS = (
    Person(1, "F", 34, "Phantom^Ada"),
    Person(2, "M", 61, "Phantom^Bruno"),
    Person(3, "F", 47, "Phantom^Clara"),
    Person(4, "M", 58, "Phantom^Daniel"),
    Person(5, "F", 72, "Phantom^Emma"),
    Person(6, "M", 66, "Phantom^Felix"),
    Person(7, "F", 29, "Übungsphantom^Jördis"),
    Person(8, "M", 8, "Phantom^Hugo"),
    Person(9, "F", 41, "Phantom^Ida"),
    Person(10, "M", 83, "Phantom^Jonas"),
    Person(11, "F", 55, "Phantom^Käthe"),
    Person(12, "M", 91, "模型^太郎"),
)
"""Invented patients: three for each class, in the order of `CLASSES`."""

_SIZES = ((560, 528), (600, 560), (512, 512), (576, 560), (512, 480), (544, 544))
_LARGE_SIZE = (720, 680)

# Folders with blanks and letters beyond ASCII, as exports have them.
_UNICODE_FOLDERS = {7: "PHANTOM-007 Zürich Übung", 12: "PHANTOM-012 胸部"}

_INVERTED = GreyEncoding(inverted=True)
_WHOLE_8 = GreyEncoding(bits=8, voi=VoiKind.NONE)
_SIGMOID = GreyEncoding(voi=VoiKind.SIGMOID)
_TWO_WINDOWS = GreyEncoding(inverted=True, voi=VoiKind.TWO_WINDOWS)
_WHOLE_14 = GreyEncoding(bits=14, voi=VoiKind.NONE)
_WHOLE_16 = GreyEncoding(bits=16, inverted=True, voi=VoiKind.NONE)
_PLAIN, _IMPLICIT = uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian
# Person, visit, file name and packing of each DICOM file with one frontal view.
_DICOM_FILES = (
    (1, 1, "IM0001.dcm", DicomPacking()),
    (2, 1, "IM0001.dcm", DicomPacking(_IMPLICIT, modality="DX")),
    (3, 1, "IM0001.dcm", DicomPacking(uids.ExplicitVRBigEndian)),
    (3, 2, "IM0001", DicomPacking(grey=GreyEncoding(bits=10), view="AP")),
    (4, 1, "IM0001.dcm", DicomPacking(uids.DeflatedExplicitVRLittleEndian, modality="DX")),
    (4, 2, "IM0001.dcm", DicomPacking(uids.RLELossless, _INVERTED, view="AP")),
    (5, 1, "IM0001.dcm", DicomPacking(uids.RLELossless, GreyEncoding(bits=16), modality="DX")),
    (5, 1, "IM0002.dcm", DicomPacking(_PLAIN, _WHOLE_8)),
    (6, 1, "IM0001.dcm", DicomPacking(uids.JPEG2000Lossless, view="AP")),
    (6, 1, "IM0002.dcm", DicomPacking(uids.JPEG2000Lossless, _WHOLE_16)),
    (7, 1, "IM0001.dcm", DicomPacking(uids.JPEGBaseline8Bit, _WHOLE_8)),
    (7, 1, "IM0002.dcm", DicomPacking(_PLAIN, _WHOLE_16, modality="DX")),
    (8, 1, "IM0001.dcm", DicomPacking(uids.JPEGLSLossless)),
    (8, 1, "IM0002.dcm", DicomPacking(_IMPLICIT, GreyEncoding(bits=8, inverted=True))),
    (9, 1, "IM0001.dcm", DicomPacking(uids.JPEGLosslessSV1, _INVERTED)),
    (9, 1, "IM0002.dcm", DicomPacking(uids.JPEGLossless, GreyEncoding(bits=16))),
    (10, 1, "IM0001.dcm", DicomPacking(_IMPLICIT, view="AP", bare=True)),
    (10, 1, "IM0002", DicomPacking(_PLAIN, _INVERTED)),
    (11, 1, "IM0001.dcm", DicomPacking(_PLAIN, _SIGMOID, modality="DX")),
    (12, 1, "IM0001.dcm", DicomPacking(_PLAIN, GreyEncoding(bits=16, signed=True))),
    (12, 1, "IM0002.dcm", DicomPacking(_PLAIN, _TWO_WINDOWS, modality="DX")),
    (12, 1, "IM0003.dcm", DicomPacking(_PLAIN, _WHOLE_14, modality="DX", for_processing=True)),
)
# Persons whose first frontal view is a raster file too, by format, folder and suffix.
_RASTER_FILES = (
    (RasterFormat.PNG8, "png8", "png", (1, 3, 5, 7, 9, 11)),
    (RasterFormat.PNG16, "png16", "png", (3, 6, 8, 12)),
    (RasterFormat.JPEG, "jpeg", "jpg", (1, 4, 7, 10)),
)


def phantom_files() -> list[PhantomFile]:
    """Return descriptions of the sample's phantom files, sorted by person, study and path.

    Nothing is drawn or written: each item says what is to be drawn and how it is packed.
    """
    files = [
        _dicom_file(number, visit, name, packing, _drawing(number, visit=visit))
        for number, visit, name, packing in _DICOM_FILES
    ]
    lateral = _drawing(1, view=draw_lateral)
    files.append(_dicom_file(1, 1, "IM0002.dcm", DicomPacking(modality="DX", view="LL"), lateral))
    packing = DicomPacking(grey=_INVERTED, view="AP", body_part="FOREARM")
    forearm = _drawing(2, visit=2, view=draw_forearm)
    files.append(_dicom_file(2, 2, "IM0002.dcm", packing, forearm))
    frames = _drawing(11), _drawing(11, visit=2)
    files.append(_dicom_file(11, 1, "IM0002.dcm", DicomPacking(), *frames))
    for form, folder, suffix, numbers in _RASTER_FILES:
        for number in numbers:
            person = PERSONS[number - 1]
            path = f"export/{folder}/{person.patient_id} PA.{suffix}"
            files.append(PhantomFile(path, person, (_drawing(number),), form))
    return sorted(files, key=lambda file: (file.person.number, file.study, file.path))


def _drawing(
    number: int, *, visit: int = 1, view: Callable[[PhantomRequest], Plane] = draw_frontal
) -> Drawing:
    """The drawing of person `number`, from 1, at a visit."""
    person, label = PERSONS[number - 1], CLASSES[(number - 1) // 3]
    size = _LARGE_SIZE if number == 2 else _SIZES[number % len(_SIZES)]
    request = PhantomRequest(label, 100 + number, person.sex, Detector(*size), visit)
    return Drawing(view, request)


def _dicom_file(
    number: int, visit: int, name: str, packing: DicomPacking, *drawings: Drawing
) -> PhantomFile:
    person = PERSONS[number - 1]
    folder = _UNICODE_FOLDERS.get(number, person.patient_id)
    return PhantomFile(f"pacs/{folder}/study {visit}/{name}", person, drawings, packing)


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What `write_sample` wrote.

    Attributes:
        directory: The directory that holds the archive.
        kinds: Kind of file to number of files, each of `KINDS`; they sum to all files.
        labelled: Rows of labels.csv, without its header.
        size: Bytes in all.
        remark: One line that says what was left out; empty if nothing was.
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


def write_sample(directory: str | Path) -> SampleSummary:
    """Write the sample archive: phantoms, real radiographs, broken and foreign files, labels.csv.

    Real radiographs are left out if the package pydicom-data is not installed or lacks them.

    Args:
        directory: Where to; created if it is missing, must be empty if it exists.

    Returns:
        The number of files by kind, of labels and of bytes, and what was left out.

    Raises:
        UsageError: If `directory` is a file or is not empty.
        CxrbatchError: If the disk refuses a file; the files written before stay.
    """
    directory = Path(directory)
    kinds: Counter[str] = Counter()
    size = 0
    real = _real_folder()
    try:
        if directory.exists() and not directory.is_dir():
            raise UsageError(f"{directory} is a file; name a new or empty directory")
        if directory.is_dir() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty; name a new or empty directory")
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


def _contents(real: Path | None) -> Iterator[tuple[str, str, bytes]]:
    """Make all files, with one person's drawings in memory at a time.

    Args:
        real: Folder of the real radiographs; None leaves them out.

    Yields:
        Path relative to the archive with forward slashes, kind of file, content.
    """
    draw = lru_cache(maxsize=4)(Drawing.draw)
    samples: dict[str, bytes] = {}
    for file in phantom_files():
        kind, content = _phantom_bytes(file, [draw(drawing) for drawing in file.drawings])
        samples.setdefault(kind, content)
        yield file.path, kind, content
    if real is not None:
        for name in REAL_RADIOGRAPHS:
            yield f"real/{name}", REAL, (real / name).read_bytes()
    broken = broken_files(dicom=samples[DICOM], png=samples[PNG])
    yield from ((path, BROKEN, content) for path, content in broken.items())
    foreign = foreign_files(PERSONS[0])
    yield from ((path, FOREIGN, content) for path, content in foreign.items())
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerows([("path", "label", "patient"), *_label_rows()])
    yield LABELS, LABELS, table.getvalue().encode()


def _phantom_bytes(file: PhantomFile, planes: list[Plane]) -> tuple[str, bytes]:
    """Kind and content of one phantom file, of which `planes` are the frames."""
    if isinstance(file.packing, DicomPacking):
        instance = file.path.rpartition("/")[2]
        packing = file.packing
        return DICOM, dicom_bytes(planes, file.person, packing, study=file.study, instance=instance)
    bits = 16 if file.packing is RasterFormat.PNG16 else 8
    stored = GreyEncoding(bits=bits, voi=VoiKind.NONE).store(planes[0])
    if file.packing is RasterFormat.JPEG:
        return JPEG, jpeg_bytes(stored)
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, format="PNG")
    return PNG, stream.getvalue()


def _label_rows() -> list[tuple[str, str, str]]:
    """Path, label and patient of each phantom of a chest, sorted by path."""
    return sorted(
        (file.path, file.label, file.person.patient_id)
        for file in phantom_files()
        if file.label is not None
    )


def _real_folder() -> Path | None:
    """Folder of pydicom-data's files; None if the package is not installed or lacks them."""
    spec = importlib.util.find_spec("data_store")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "data"
    return folder if all((folder / name).is_file() for name in REAL_RADIOGRAPHS) else None

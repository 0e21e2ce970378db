"""Which phantom files the sample archive holds: persons, pictures and how each is packed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.sample.dicom_writer import Person, Wrapping
from cxrbatch.sample.phantom import (
    CLASSES,
    PhantomRequest,
    draw_forearm,
    draw_frontal,
    draw_lateral,
)
from cxrbatch.sample.projection import Film, Grey, Plane, Voi


class Subject(StrEnum):
    """What a picture shows."""

    FRONTAL = "chest from the front"
    LATERAL = "chest from the side"
    FOREARM = "forearm"


class Raster(StrEnum):
    """Containers without a header."""

    PNG8 = "8-bit grey PNG"
    PNG16 = "16-bit grey PNG"
    JPEG = "8-bit grey JPEG"


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing: equal pictures in several files have equal pixels."""

    subject: Subject
    request: PhantomRequest

    def draw(self) -> Plane:
        """Shape (rows, columns), float64 in [0, 1]."""
        draw = {
            Subject.FRONTAL: draw_frontal,
            Subject.LATERAL: draw_lateral,
            Subject.FOREARM: draw_forearm,
        }
        return draw[self.subject](self.request)


@dataclass(frozen=True, slots=True)
class PhantomFile:
    """One file to write.

    Attributes:
        path: Relative to the archive, with forward slashes.
        person: Who was drawn.
        pictures: One, or one for each frame.
        wrapping: DICOM packing, or the kind of raster file.
    """

    path: str
    person: Person
    pictures: tuple[Picture, ...]
    wrapping: Wrapping | Raster

    @property
    def label(self) -> str | None:
        """The class that was drawn; None where no chest was."""
        first = self.pictures[0]
        return None if first.subject is Subject.FOREARM else first.request.label

    @property
    def study(self) -> int:
        """Number of the person's study: one for each visit."""
        return self.pictures[0].request.visit


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

FILMS = (
    Film(560, 528),
    Film(600, 560),
    Film(512, 512),
    Film(576, 560),
    Film(512, 480),
    Film(544, 544),
)

UNICODE_FOLDERS = {7: "PHANTOM-007 Zürich Übung", 12: "PHANTOM-012 胸部"}
"""Folders with blanks and letters beyond ASCII, as exports have them."""


def picture(number: int, *, subject: Subject = Subject.FRONTAL, visit: int = 1) -> Picture:
    """The picture of person `number` (from 1) at a visit."""
    person = PERSONS[number - 1]
    label = CLASSES[(number - 1) // 3]
    film = Film(720, 680) if number == 2 else FILMS[number % len(FILMS)]
    return Picture(subject, PhantomRequest(label, 100 + number, person.sex, film, visit))


def phantom_files() -> list[PhantomFile]:
    """All phantom files of the sample archive, one person's files side by side."""
    files = [*_dicom_files(), *_raster_files()]
    return sorted(files, key=lambda file: (file.person.number, file.study, file.path))


def _dicom_files() -> list[PhantomFile]:
    inverted, sixteen = Grey(inverted=True), Grey(bits=16)
    whole_16 = Grey(bits=16, inverted=True, voi=Voi.NONE)
    lateral, forearm = Subject.LATERAL, Subject.FOREARM
    return [
        _dicom(1, "IM0001.dcm", Wrapping()),
        _dicom(1, "IM0002.dcm", Wrapping(modality="DX", view="LL"), subject=lateral),
        _dicom(2, "IM0001.dcm", Wrapping(ImplicitVRLittleEndian, modality="DX")),
        _dicom(
            2,
            "IM0002.dcm",
            Wrapping(grey=inverted, view="AP", body_part="FOREARM"),
            subject=forearm,
            visit=2,
        ),
        _dicom(3, "IM0001.dcm", Wrapping(ExplicitVRBigEndian)),
        _dicom(3, "IM0001", Wrapping(grey=Grey(bits=10), view="AP"), visit=2),
        _dicom(4, "IM0001.dcm", Wrapping(DeflatedExplicitVRLittleEndian, modality="DX")),
        _dicom(4, "IM0001.dcm", Wrapping(RLELossless, inverted, view="AP"), visit=2),
        _dicom(5, "IM0001.dcm", Wrapping(RLELossless, sixteen, modality="DX")),
        _dicom(5, "IM0002.dcm", Wrapping(grey=Grey(bits=8, voi=Voi.NONE))),
        _dicom(6, "IM0001.dcm", Wrapping(JPEG2000Lossless, view="AP")),
        _dicom(6, "IM0002.dcm", Wrapping(JPEG2000Lossless, whole_16)),
        _dicom(7, "IM0001.dcm", Wrapping(JPEGBaseline8Bit, Grey(bits=8, voi=Voi.NONE))),
        _dicom(7, "IM0002.dcm", Wrapping(grey=whole_16, modality="DX")),
        _dicom(8, "IM0001.dcm", Wrapping(JPEGLSLossless)),
        _dicom(8, "IM0002.dcm", Wrapping(ImplicitVRLittleEndian, Grey(bits=8, inverted=True))),
        _dicom(9, "IM0001.dcm", Wrapping(JPEGLosslessSV1, inverted)),
        _dicom(9, "IM0002.dcm", Wrapping(JPEGLossless, sixteen)),
        _dicom(10, "IM0001.dcm", Wrapping(ImplicitVRLittleEndian, view="AP", bare=True)),
        _dicom(10, "IM0002", Wrapping(grey=inverted)),
        _dicom(11, "IM0001.dcm", Wrapping(grey=Grey(voi=Voi.SIGMOID), modality="DX")),
        _two_frames(11, "IM0002.dcm"),
        _dicom(12, "IM0001.dcm", Wrapping(grey=Grey(bits=16, signed=True))),
        _dicom(
            12, "IM0002.dcm", Wrapping(grey=Grey(inverted=True, voi=Voi.TWO_WINDOWS), modality="DX")
        ),
        _dicom(
            12,
            "IM0003.dcm",
            Wrapping(grey=Grey(bits=14, voi=Voi.NONE), modality="DX", for_processing=True),
        ),
    ]


def _dicom(
    number: int,
    name: str,
    wrapping: Wrapping,
    *,
    subject: Subject = Subject.FRONTAL,
    visit: int = 1,
) -> PhantomFile:
    drawn = picture(number, subject=subject, visit=visit)
    return PhantomFile(_pacs_path(number, visit, name), PERSONS[number - 1], (drawn,), wrapping)


def _two_frames(number: int, name: str) -> PhantomFile:
    """A file of two frames: the same person on two visits, with the same class."""
    frames = (picture(number), picture(number, visit=2))
    return PhantomFile(_pacs_path(number, 1, name), PERSONS[number - 1], frames, Wrapping())


def _pacs_path(number: int, visit: int, name: str) -> str:
    folder = UNICODE_FOLDERS.get(number, PERSONS[number - 1].patient_id)
    return f"pacs/{folder}/study {visit}/{name}"


def _raster_files() -> list[PhantomFile]:
    """Every person once or twice as PNG or JPEG: the pixels of their first DICOM visit."""
    kinds = {
        Raster.PNG8: ("png8", "png", (1, 3, 5, 7, 9, 11)),
        Raster.PNG16: ("png16", "png", (3, 6, 8, 12)),
        Raster.JPEG: ("jpeg", "jpg", (1, 4, 7, 10)),
    }
    files = []
    for kind, (folder, suffix, numbers) in kinds.items():
        for number in numbers:
            person = PERSONS[number - 1]
            path = f"export/{folder}/{person.patient_id} PA.{suffix}"
            files.append(PhantomFile(path, person, (picture(number),), kind))
    return files

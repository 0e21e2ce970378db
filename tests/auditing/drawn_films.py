"""Drawn films with lungs and a disease in them, and with shortcuts planted beside it."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cxrbatch.auditing.bundled_lungs import NamedFinder
from cxrbatch.auditing.treatments import Films, LungFields

EDGE = 64
CLASSES = ("Normal", "Opacity")
Plant = Literal["nothing", "marker", "border", "header"]


def lung_field(size: int) -> npt.NDArray[np.bool_]:
    """Where the lungs of every drawn film are, shape (size, size)."""
    rows, columns = (np.indices((size, size)) + 0.5) / size
    height = ((rows - 0.5) / 0.3) ** 2
    return np.logical_or(
        *(height + ((columns - middle) / 0.13) ** 2 < 1 for middle in (0.32, 0.68))
    )


class DrawnLungs:
    """Finds the lungs of drawn films, and doubts films that are nearly white."""

    def masks(self, inputs: Films) -> tuple[LungFields, tuple[tuple[str, ...], ...]]:
        fields = np.broadcast_to(lung_field(inputs.shape[1]), inputs.shape)
        return fields.copy(), tuple(("white",) if f.mean() > 230 else () for f in inputs)


FINDER = NamedFinder(DrawnLungs(), "drawn")


def draw_film(rng: np.random.Generator, *, sick: bool, plant: Plant) -> npt.NDArray[np.uint8]:
    """Draw one film; without a plant the sick ones have a bright patch in a lung."""
    lungs = lung_field(EDGE)
    film = np.where(lungs, 70.0, 150.0) + rng.normal(0.0, 12.0, (EDGE, EDGE))
    film += rng.normal(0.0, 10.0)
    if sick and plant in ("nothing", "header"):
        row, column = rng.integers(22, 36), rng.choice([15, 38])
        patch = np.zeros_like(lungs)
        patch[row : row + 12, column : column + 10] = True
        film[patch & lungs] += 90.0
    if sick and plant == "marker":
        film[2:9, 2:9] = 250.0
    if sick and plant == "border":
        film[:4] = film[-4:] = 20.0
        film[:, :4] = film[:, -4:] = 20.0
    return film.clip(0, 255).astype(np.uint8)


def write_dicom(path: Path, grey: npt.NDArray[np.uint8], *, patient: str, maker: str) -> None:
    """Write grey levels as a DX image of a patient and a manufacturer."""
    film = Dataset()
    film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    film.SOPInstanceUID = f"1.2.3.{abs(hash(path.name)) % 10**9}"
    film.Modality, film.PatientID, film.Manufacturer = "DX", patient, maker
    film.Rows, film.Columns = grey.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit = 7
    film.PhotometricInterpretation = "MONOCHROME2"
    film.WindowCenter, film.WindowWidth = 128, 256
    film.PixelData = grey.tobytes()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.save_as(path, enforce_file_format=True)


def write_films(folder: Path, plant: Plant, *, train: int = 160, test: int = 120) -> Path:
    """Write films of two classes with a plant, and labels with split and source; return these.

    The sources are drawn for each film: they go with no class.
    """
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    lines = ["path,label,patient,split,source"]
    for number in range(train + 40 + test):
        sick = bool(number % 2)
        split = "train" if number < train else "val" if number < train + 40 else "test"
        maker = ("Alpha", "Gamma")[number % 2 if plant == "header" else int(rng.integers(2))]
        name = f"{number:04}.dcm"
        film = draw_film(rng, sick=sick, plant=plant)
        write_dicom(folder / name, film, patient=f"P{number}", maker=maker)
        source = ("north", "south")[int(rng.integers(2))]
        lines.append(f"{name},{CLASSES[sick]},P{number},{split},{source}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"

"""Small DICOM films that name a patient, for tests of what becomes of the name."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def write_film(
    path: Path, grey: np.ndarray, *, patient_id: str | None = None, issuer: str | None = None
) -> Path:
    """Write grey levels, shape (rows, columns), uint8, as a DX image."""
    film = Dataset()
    film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    film.SOPInstanceUID = "1.2.3.4"
    film.Modality = "DX"
    if patient_id is not None:
        film.PatientID = patient_id
    if issuer is not None:
        film.IssuerOfPatientID = issuer
    film.Rows, film.Columns = grey.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit = 7
    film.PhotometricInterpretation = "MONOCHROME2"
    film.WindowCenter, film.WindowWidth = 128, 256
    film.PixelData = grey.astype(np.uint8).tobytes()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    film.save_as(path, enforce_file_format=True)
    return path

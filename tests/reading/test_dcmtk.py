"""Every DICOM image at hand, rendered by this project and by DCMTK, side by side."""

from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dcmtk_renderer import missing_tools, render_with_dcmtk
from makers import make_dicom, make_lut, ramp

from cxrbatch.reading.radiograph import ReadingOptions, iterate_radiographs

OPTIONS = ReadingOptions(render_all=True, no_voi="full_range")

# Where DCMTK is not the authority: it swaps the halves of 32-bit big endian words, and it is
# given this JPEG 2000 file with the bits stored of its codestream instead of its header.
EXCEPTIONS = {
    "rtdose_expb.dcm",
    "rtdose_expb_1frame.dcm",
    "emri_small_jpeg_2k_lossless.dcm",
}

pytestmark = pytest.mark.skipif(
    bool(missing_tools()), reason=f"not installed: {', '.join(missing_tools())}"
)


def collections() -> list[Path]:
    """pydicom's own test files and, where it is installed, those of pydicom-data."""
    folders = [Path(pydicom.data.__file__).parent]
    try:
        import data_store
    except ImportError:
        pass
    else:
        folders.append(Path(data_store.__file__).parent / "data")
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def difference(path: Path, folder: Path) -> float | None:
    """Largest difference of the first frame in 255ths; None unless both give an image."""
    readings = iterate_radiographs(path, OPTIONS)
    reading = next(readings)
    readings.close()
    if reading.display is None:
        return None
    rendered = render_with_dcmtk(
        path,
        transfer_syntax=reading.facts.transfer_syntax or "",
        voi_source=reading.facts.voi_source,
        folder=folder,
    )
    if rendered is None:
        return None
    assert rendered.shape == reading.display.shape, path.name
    return float(np.abs(np.rint(reading.display * 255.0) - rendered).max())


def test_every_file_that_dcmtk_renders(tmp_path: Path) -> None:
    paths = [path for path in collections() if path.name not in EXCEPTIONS]
    compared = {path.name: difference(path, tmp_path) for path in paths if path.suffix != ".py"}
    found = {name: value for name, value in compared.items() if value is not None}
    for name, value in sorted(found.items()):
        print(f"{name:44s} {value:6.3f}")
    assert len(found) > 60
    # Of colour, DCMTK rounds each channel before its luminance is taken here.
    assert {name: value for name, value in found.items() if value > 1.25} == {}


CASES = {
    "monochrome1": {"photometric": "MONOCHROME1"},
    "inverse": {"elements": {0x20500020: ("CS", "INVERSE")}},
    "monochrome1 identity": {
        "photometric": "MONOCHROME1",
        "elements": {0x20500020: ("CS", "IDENTITY")},
    },
    "window": {"elements": {0x00281050: ("DS", 600), 0x00281051: ("DS", 900)}},
    "rescale and window": {
        "elements": {
            0x00281050: ("DS", 600),
            0x00281051: ("DS", 900),
            0x00281052: ("DS", -100),
            0x00281053: ("DS", 2),
        }
    },
    "voi lut": {
        "elements": {
            0x00283010: ("SQ", [make_lut([x * 3 for x in range(3000)], first=700, bits=14)])
        }
    },
    "voi lut 8 bit": {
        "elements": {
            0x00283010: ("SQ", [make_lut([x // 16 for x in range(4096)], first=0, bits=8)])
        }
    },
    "modality lut": {
        "elements": {
            0x00283000: ("SQ", [make_lut([4095 - x for x in range(4096)], first=0, bits=12)]),
            0x00281050: ("DS", 2000),
            0x00281051: ("DS", 3000),
        }
    },
    "sigmoid": {
        "elements": {
            0x00281050: ("DS", 2000),
            0x00281051: ("DS", 3000),
            0x00281056: ("CS", "SIGMOID"),
        }
    },
}


@pytest.mark.parametrize("name", CASES)
def test_made_cases(name: str, tmp_path: Path) -> None:
    path = tmp_path / "case.dcm"
    path.write_bytes(make_dicom(ramp(64, 64), **CASES[name]))
    found = difference(path, tmp_path)
    assert found is not None
    assert found <= 1.0

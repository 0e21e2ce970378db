"""DCMTK's renderers as an outside authority on grey levels."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_RENDERERS = {
    "1.2.840.10008.1.2.4.50": "dcmj2pnm",
    "1.2.840.10008.1.2.4.51": "dcmj2pnm",
    "1.2.840.10008.1.2.4.57": "dcmj2pnm",
    "1.2.840.10008.1.2.4.70": "dcmj2pnm",
    "1.2.840.10008.1.2.4.80": "dcml2pnm",
    "1.2.840.10008.1.2.4.81": "dcml2pnm",
}
_J2K = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
TOOLS = ("dcm2pnm", "dcmj2pnm", "dcml2pnm", "gdcmconv")


def missing_tools() -> list[str]:
    """The tools that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def render_with_dcmtk(
    path: Path, *, transfer_syntax: str, voi_source: str | None, folder: Path
) -> NDArray[np.float64] | None:
    """Luminance of the first frame, 0 to 255, or None if DCMTK gives no image.

    Args:
        path: A DICOM file.
        transfer_syntax: Its UID.
        voi_source: What the project's reader says that it used: DCMTK has to be told.
        folder: For files in between.
    """
    source = path
    if transfer_syntax in _J2K:
        source = folder / "raw.dcm"
        # It may end without a word and without a file.
        source.unlink(missing_ok=True)
        if _run("gdcmconv", "--raw", str(path), str(source)) != 0 or not source.exists():
            return None
    source_name = voi_source or ""
    window = ["+Wl", "1"] if source_name == "voi_lut" else []
    window = ["+Wi", "1"] if source_name.startswith("window") else window
    target = folder / "rendered.pnm"
    target.unlink(missing_ok=True)
    tool = _RENDERERS.get(transfer_syntax, "dcm2pnm")
    if _run(tool, "-q", "-O", "+F", "1", *window, str(source), str(target)) != 0:
        return None
    if not target.exists():
        return None
    with Image.open(target) as image:
        values = np.asarray(image, np.float64)
    return values if values.ndim == 2 else values @ (0.299, 0.587, 0.114)


def _run(*command: str) -> int:
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

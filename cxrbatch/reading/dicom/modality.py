"""Whether a DICOM object is a radiograph by its Modality and its SOP class.

Modality (0008,0060) says how an image was acquired, the SOP class how it is stored, and the two
need not bear the same name (PS3.3 C.7.3.1.1.1, note 3): mammograms lie in objects of Computed
Radiography. So a defined term of Modality decides. What is no such term, or means "other" only, is
a slip, and there the SOP class decides, and after it a list of spellings.
"""

import re
from dataclasses import dataclass

from pydicom.uid import UID

from cxrbatch.reading.dicom.elements import decodings, unknown
from cxrbatch.reading.dicom.header import Header
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.readings import RADIOGRAPH_MODALITIES
from cxrbatch.reading.spelling import plain_capitals

# PS3.3 C.7.3.1.1.1, Defined Terms of Modality, and the retired ones.
_DEFINED = """
ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO
IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR
PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT SEG SM SMR SR
SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC
AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF
"""
# What is written where CR, DX or RG is meant; without blanks and punctuation.
_SPELT = """
DR XR XRAY XRAYS RX RTG CXR DXR DDR CHESTXRAY DIGITALXRAY PLAINXRAY XRAYIMAGE RAD RADIOGRAPH
RADIOGRAPHY RADIOGRAPHIE RADIOGRAFIA DIGITALRADIOGRAPHY COMPUTEDRADIOGRAPHY RONTGEN ROENTGEN
"""
_TERMS = frozenset(_DEFINED.split())
_SPELLINGS = RADIOGRAPH_MODALITIES.union(_SPELT.split())
_OTHER = "OT"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Computed Radiography; Digital X-Ray for presentation and for processing (PS3.6 annex A).
_DX_CLASSES = (f"{_STORAGE}1.1", f"{_STORAGE}1.1.1")
_XRAY_CLASSES = (f"{_STORAGE}1", *_DX_CLASSES)
_SECONDARY_CAPTURE = _STORAGE + "7"


@dataclass(frozen=True, slots=True)
class Modality:
    """What Modality and SOP class say together.

    Attributes:
        code: Defined term or known spelling, in capitals; None where there is none.
        is_missing: Whether the element is absent or empty.
        refusal: Why the image is not scored, or None.
        deviation: How the element breaks the standard; empty where it does not. It quotes no
            words but those known here.
    """

    code: str | None
    is_missing: bool = False
    refusal: ReadingError | None = None
    deviation: str = ""


def read_modality(header: Header, *, accepted: frozenset[str]) -> Modality:
    """Read Modality, in the light of the SOP class.

    Args:
        header: Of any object.
        accepted: Codes of the modalities that are scored, in capitals.
    """
    written = next(decodings(header.dataset, 0x00080060), "")
    sop_class = header.sop_class or ""
    if not written:
        is_foreign = header.pixels is not None and _is_foreign(sop_class)
        refusal = _refused("no modality", sop_class) if is_foreign else None
        return Modality(None, is_missing=True, refusal=refusal)
    code = written.upper()
    if code in accepted or (code in _TERMS and code != _OTHER):
        return _of_term(code, written, sop_class, accepted)
    return _of_slip(written, sop_class)


def _of_term(code: str, written: str, sop_class: str, accepted: frozenset[str]) -> Modality:
    if code not in accepted:
        return Modality(code, refusal=ReadingError(Outcome.NOT_A_RADIOGRAPH, f"modality {code}"))
    if code not in _TERMS:
        deviation = f"modality {code} is no term of the standard"
    elif written != code:
        deviation = f"modality {code} is not written in capitals"
    elif code in RADIOGRAPH_MODALITIES and _contradicts(code, sop_class):
        deviation = f"modality {code} does not fit the SOP class {UID(sop_class).name}"
    else:
        deviation = ""
    return Modality(code, deviation=deviation)


def _contradicts(code: str, sop_class: str) -> bool:
    """Whether radiographs of this modality are stored otherwise.

    The Digital X-Ray objects enumerate their modalities, DX among them (PS3.3 C.8.11.1).
    """
    return code != "DX" if sop_class in _DX_CLASSES else _is_foreign(sop_class)


def _of_slip(written: str, sop_class: str) -> Modality:
    """What is no term: the SOP class decides, then the spelling."""
    parts = re.findall("[A-Z0-9]+", plain_capitals(written))
    code, is_radiograph = None, False
    if "".join(parts) in _SPELLINGS:
        code, is_radiograph = "".join(parts), True
    elif parts and all(part in _SPELLINGS | _TERMS for part in parts):
        code, is_radiograph = "/".join(parts), _SPELLINGS.issuperset(parts)
    shown = f"modality {code}" if code else unknown("modality", written)
    if code is not None and not is_radiograph and code != _OTHER:
        return Modality(code, refusal=_refused(shown, ""))
    if sop_class in _XRAY_CLASSES or (is_radiograph and not _is_foreign(sop_class)):
        what = "does not fit the SOP class" if code == _OTHER else "is no term of the standard"
        return Modality(code, deviation=f"{shown} {what}" if code else shown)
    return Modality(code, refusal=_refused(shown, sop_class if _is_foreign(sop_class) else ""))


def _refused(shown: str, sop_class: str) -> ReadingError:
    detail = f"{shown}, an object of {UID(sop_class).name}" if sop_class else shown
    return ReadingError(Outcome.NOT_A_RADIOGRAPH, detail)


def _is_foreign(sop_class: str) -> bool:
    """Whether this is a storage class of the standard for something else than radiographs.

    Secondary Capture takes images of all kinds.
    """
    if sop_class in _XRAY_CLASSES or not sop_class.startswith(_STORAGE):
        return False
    is_capture = f"{sop_class}.".startswith(f"{_SECONDARY_CAPTURE}.")
    return not is_capture and UID(sop_class).name != sop_class

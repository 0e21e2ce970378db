"""Whether a DICOM object is a radiograph by its Modality and its SOP class.

Modality (0008,0060) says how an image was acquired, the SOP class how it is stored, and the two
need not bear the same name (PS3.3 C.7.3.1.1.1, note 3): mammograms lie in objects of Computed
Radiography. So a defined term of Modality decides. What is no such term, or means "other" only, is
a slip, and there the SOP class decides, and after it a list of spellings.
"""

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxrbatch.reading.codecs.decoders import DECODERS, LOSSY
from cxrbatch.reading.dicom.colour import read_photometric
from cxrbatch.reading.dicom.elements import (
    decodings,
    integer,
    is_present,
    numbers,
    text,
    unknown,
    values_of,
)
from cxrbatch.reading.dicom.examination import (
    body_part,
    is_lateral,
    is_other_body_part,
    view_position,
)
from cxrbatch.reading.dicom.header import EXPLICIT, Header
from cxrbatch.reading.facts import HeaderFacts, age_bin, plain_capitals, years_of_age
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError
from cxrbatch.reading.readings import RADIOGRAPH_MODALITIES

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


# SOP classes without an image to score, longest prefix first (PS3.6 annex A).
_OBJECTS = (
    ("1.2.840.10008.1.3.10", Outcome.DICOMDIR, "a DICOMDIR"),
    (_STORAGE + "88", Outcome.STRUCTURED_REPORT, "a structured report"),
    (_STORAGE + "104", Outcome.ENCAPSULATED_DOCUMENT, "an encapsulated document"),
    (_STORAGE + "481", Outcome.RADIOTHERAPY_OBJECT, "a radiotherapy object"),
    (_STORAGE + "11", Outcome.PRESENTATION_STATE, "a presentation state"),
    (_STORAGE + "9", Outcome.WAVEFORM, "a waveform"),
)
# The same by modality, for files whose SOP class is missing (PS3.3 C.7.3.1.1.1).
_MODALITIES = {
    "SR": Outcome.STRUCTURED_REPORT,
    "KO": Outcome.STRUCTURED_REPORT,
    "DOC": Outcome.ENCAPSULATED_DOCUMENT,
    "PR": Outcome.PRESENTATION_STATE,
    "ECG": Outcome.WAVEFORM,
    "EPS": Outcome.WAVEFORM,
    "HD": Outcome.WAVEFORM,
    "RTDOSE": Outcome.RADIOTHERAPY_OBJECT,
    "RTIMAGE": Outcome.RADIOTHERAPY_OBJECT,
    "RTPLAN": Outcome.RADIOTHERAPY_OBJECT,
    "RTRECORD": Outcome.RADIOTHERAPY_OBJECT,
    "RTSTRUCT": Outcome.RADIOTHERAPY_OBJECT,
}
# Pixel Aspect Ratio, Pixel Spacing, Imager Pixel Spacing, Nominal Scanned Pixel Spacing.
_ASPECT_TAGS = (0x00280034, 0x00280030, 0x00181164, 0x00182010)
_MOST_STRETCHED = 8.0
_LONGEST_UID = 64
# Image Laterality, Patient's Sex and Presentation Intent Type (PS3.3 C.7.6.1, C.7.1.1, C.8.11.1).
_SIDES = ("L", "R", "U", "B")
_SEXES = ("F", "M", "O")
_INTENTS = ("FOR PRESENTATION", "FOR PROCESSING")
# Digital X-ray, mammography and intra-oral images for processing (PS3.6 annex A).
_FOR_PROCESSING = frozenset(f"{_STORAGE}1.{kind}.1" for kind in (1, 2, 3))


def object_kind(header: Header) -> ReadingError | None:
    """Why a file that is no plain image is excluded, None for images."""
    sop_class = header.sop_class or ""
    for prefix, outcome, words in _OBJECTS:
        if sop_class == prefix or sop_class.startswith(prefix + "."):
            return ReadingError(outcome, words)
    if is_present(header.dataset, 0x00041220):
        return ReadingError(Outcome.DICOMDIR, "a DICOMDIR")
    named = _MODALITIES.get(text(header.dataset, 0x00080060) or "")
    if named is None or (sop_class and named is not Outcome.RADIOTHERAPY_OBJECT):
        return None
    return ReadingError(named, named.meaning[0].lower() + named.meaning[1:].rstrip("."))


def describe(header: Header, modality: Modality) -> HeaderFacts:
    """What the header says, as short printable text.

    Of an element with defined terms only known words are kept: anything else was typed by a
    person, and may name one. Manufacturer and model are free text.
    """
    dataset = header.dataset
    return HeaderFacts(
        modality=modality.code,
        body_part=body_part(dataset),
        view_position=view_position(dataset),
        laterality=_term(dataset, 0x00200062, _SIDES) or _term(dataset, 0x00200060, _SIDES),
        patient_sex=_term(dataset, 0x00100040, _SEXES),
        patient_age_bin=age_bin(
            _age(dataset),
            birth_date=text(dataset, 0x00100030),
            study_date=text(dataset, 0x00080020),
        ),
        manufacturer=text(dataset, 0x00080070),
        model_name=text(dataset, 0x00081090),
        photometric=read_photometric(dataset)[0],
        transfer_syntax=_registered(header.transfer_syntax),
        presentation_intent=_term(dataset, 0x00080068, _INTENTS),
        rows=_size(dataset, 0x00280010),
        columns=_size(dataset, 0x00280011),
        bits_stored=_size(dataset, 0x00280101),
        sop_instance_uid=_uid(dataset, 0x00080018),
        series_instance_uid=_uid(dataset, 0x0020000E),
        study_instance_uid=_uid(dataset, 0x0020000D),
        patient_id=text(dataset, 0x00100020),
        patient_issuer=text(dataset, 0x00100021),
    )


def pixel_aspect(dataset: Dataset) -> float:
    """Height of a pixel over its width, 1 where nothing usable is said.

    Source: Pixel Aspect Ratio (0028,0034), vertical to horizontal, or the spacing of rows and
    columns in its place (PS3.3 C.7.6.3.1.7).
    """
    for tag in _ASPECT_TAGS:
        pair = numbers(dataset, tag)
        if pair is not None and len(pair) == 2 and min(pair) > 0:
            aspect = pair[0] / pair[1]
            # A pixel more stretched than this is a slip of the pen.
            return aspect if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED else 1.0
    return 1.0


def _term(dataset: Dataset, tag: int, terms: tuple[str, ...]) -> str | None:
    """The value in capitals if it is one of the terms, else None."""
    words = (text(dataset, tag) or "").upper().split()
    term = " ".join(words)
    return term if term in terms else None


def _age(dataset: Dataset) -> str | None:
    """Patient Age (0010,1010) in the first reading of its bytes that is an age."""
    ages = (age for age in decodings(dataset, 0x00101010) if years_of_age(age) is not None)
    return next(ages, None)


def _registered(transfer_syntax: str) -> str | None:
    """The UID if the standard knows it, else None."""
    if transfer_syntax == EXPLICIT or transfer_syntax in DECODERS:
        return transfer_syntax
    return transfer_syntax if UID(transfer_syntax).name != transfer_syntax else None


def _size(dataset: Dataset, tag: int) -> int | None:
    """A whole number that a table's 32 bits hold, else None: of a wrong type it may be any."""
    size = integer(dataset, tag)
    return size if size is not None and abs(size) < 1 << 31 else None


def _uid(dataset: Dataset, tag: int) -> str | None:
    """A UID, or None for anything that is none: UIDs become names elsewhere."""
    uids = [str(uid).strip("\0 ") for uid in values_of(dataset, tag)]
    uid = uids[0] if len(uids) == 1 else ""
    return uid if 0 < len(uid) <= _LONGEST_UID and set(uid) <= set("0123456789.") else None


def header_flags(header: Header, facts: HeaderFacts, modality: Modality) -> set[Flag]:
    """Flags that follow from the header alone."""
    dataset = header.dataset
    intent = facts.presentation_intent
    sop_class = header.sop_class or ""
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + ".")
    found = {
        Flag.LATERAL: is_lateral(dataset),
        Flag.NOT_CHEST_TAG: is_other_body_part(dataset),
        Flag.BURNED_IN_RISK: (text(dataset, 0x00280301) or "").upper() == "YES",
        Flag.LOSSY: header.transfer_syntax in LOSSY or _has_lossy_history(dataset),
        Flag.SECONDARY_CAPTURE: is_capture or text(dataset, 0x00080064) is not None,
        Flag.FOR_PROCESSING: intent == "FOR PROCESSING" or sop_class in _FOR_PROCESSING,
        Flag.MODALITY_MISSING: modality.is_missing,
    }
    return {flag for flag, is_set in found.items() if is_set}


def _has_lossy_history(dataset: Dataset) -> bool:
    """Whether pixels were ever compressed with loss, however they are stored (C.7.6.1.1.5).

    Lossy Image Compression (0028,2110) decides; where it is absent, a Lossy Image Compression
    Ratio (0028,2112) over 1 tells of it.
    """
    said = integer(dataset, 0x00282110)
    if said is not None:
        return said == 1
    return any(ratio > 1 for ratio in numbers(dataset, 0x00282112) or ())

"""Header facts, header flags, and what kind of DICOM object a file is."""

from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxrbatch.reading.ages import years_of_age
from cxrbatch.reading.codecs.decoders import DECODERS, LOSSY
from cxrbatch.reading.dicom.colour import read_photometric
from cxrbatch.reading.dicom.elements import decodings, integer, is_present, numbers, text, values_of
from cxrbatch.reading.dicom.examination import (
    body_part,
    is_lateral,
    is_other_body_part,
    view_position,
)
from cxrbatch.reading.dicom.header import EXPLICIT, Header
from cxrbatch.reading.dicom.modality import Modality
from cxrbatch.reading.facts import HeaderFacts, age_bin
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURE = _STORAGE + "7"

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

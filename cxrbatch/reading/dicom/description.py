"""Reads what a DICOM header says about its image: facts, flags, exclusions, size and layout."""

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxrbatch.reading.codecs.decoders import DECODERS, LOSSY, FrameShape
from cxrbatch.reading.dicom import vocabulary
from cxrbatch.reading.dicom.header import EXPLICIT, DicomHeader
from cxrbatch.reading.dicom.values import (
    capitals,
    decodings,
    describe_unknown,
    first_item,
    integer,
    numbers,
    raw_bytes,
    text,
    values_of,
)
from cxrbatch.reading.dicom.vocabulary import (
    DX_CLASSES,
    SECONDARY_CAPTURE,
    ModalityCheck,
    check_modality,
)
from cxrbatch.reading.display import StoredLayout
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError
from cxrbatch.reading.readings import HeaderFacts, age_bin, years_of_age

GREYSCALES = ("MONOCHROME1", "MONOCHROME2")
COLOUR_SPACES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
# PS3.3 C.7.6.3.1.2: those that are not read, some of them retired.
_OTHER_SPACES = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")
_PHOTOMETRICS = {
    re.sub("[ _]", "", name): name for name in (*GREYSCALES, *COLOUR_SPACES, *_OTHER_SPACES)
}

# Digital X-ray, mammography and intra-oral images for processing (PS3.6 annex A).
_FOR_PROCESSING = frozenset(f"1.2.840.10008.5.1.4.1.1.1.{kind}.1" for kind in (1, 2, 3))
# Pixel Aspect Ratio, Pixel Spacing, Imager Pixel Spacing, Nominal Scanned Pixel Spacing.
_ASPECT_TAGS = (0x00280034, 0x00280030, 0x00181164, 0x00182010)
_MOST_STRETCHED = 8.0
_LONGEST_UID = 64
# Image Laterality, Patient's Sex and Presentation Intent Type (PS3.3 C.7.6.1, C.7.1.1, C.8.11.1).
_SIDES = ("L", "R", "U", "B")
_SEXES = ("F", "M", "O")
_INTENTS = ("FOR PRESENTATION", "FOR PROCESSING")
# Values of Body Part Examined that most headers have.
_CHEST = frozenset({"CHEST", "THORAX"})


@dataclass(frozen=True, slots=True)
class Description:
    """What a header says about its image.

    Attributes:
        facts: Header values for the table.
        flags: Flags that follow from the header alone.
        exclusion: Why the file is not scored although it may be readable; None if it may be scored.
        modality_deviation: How Modality breaks the standard, in one line; "" if it does not.
        photometric_problem: What is wrong with Photometric Interpretation; "" if nothing is.
    """

    facts: HeaderFacts
    flags: set[Flag]
    exclusion: ReadingError | None
    modality_deviation: str
    photometric_problem: str


def describe(header: DicomHeader, *, accepted: frozenset[str]) -> Description:
    """Return the facts, flags and reasons for exclusion that a DICOM header gives for its image.

    Of an element with defined terms only known words become facts: anything else was typed by a
    person, and may name one. Manufacturer and model are free text.

    Args:
        header: Of any DICOM object, also of one without an image.
        accepted: Values of Modality that are scored, in capitals.
    """
    dataset, sop_class = header.dataset, header.sop_class or ""
    modality = _modality(header, accepted)
    photometric, photometric_problem = _read_photometric(dataset)
    intent = _term(dataset, 0x00080068, _INTENTS)
    facts = HeaderFacts(
        modality=modality.code,
        body_part=_body_part(dataset),
        view_position=_view_position(dataset),
        laterality=_term(dataset, 0x00200062, _SIDES) or _term(dataset, 0x00200060, _SIDES),
        patient_sex=_term(dataset, 0x00100040, _SEXES),
        patient_age_bin=age_bin(
            # Patient Age (0010,1010), in the first decoding of its bytes that is an age.
            next((a for a in decodings(dataset, 0x00101010) if years_of_age(a) is not None), None),
            birth_date=text(dataset, 0x00100030),
            study_date=text(dataset, 0x00080020),
        ),
        manufacturer=text(dataset, 0x00080070),
        model_name=text(dataset, 0x00081090),
        photometric=photometric,
        transfer_syntax=_registered(header.transfer_syntax),
        presentation_intent=intent,
        rows=_size(dataset, 0x00280010),
        columns=_size(dataset, 0x00280011),
        bits_stored=_size(dataset, 0x00280101),
        sop_instance_uid=_uid(dataset, 0x00080018),
        series_instance_uid=_uid(dataset, 0x0020000E),
        study_instance_uid=_uid(dataset, 0x0020000D),
        patient_id=text(dataset, 0x00100020),
        patient_issuer=text(dataset, 0x00100021),
        accession_number=text(dataset, 0x00080050),
    )
    is_set = {
        Flag.LATERAL: _is_lateral(dataset),
        Flag.NOT_CHEST_TAG: _is_other_body_part(dataset),
        Flag.BURNED_IN_RISK: capitals(dataset, 0x00280301) == "YES",
        Flag.LOSSY: header.transfer_syntax in LOSSY or _was_lossy(dataset),
        # Conversion Type (0008,0064) belongs to secondary captures alone.
        Flag.SECONDARY_CAPTURE: f"{sop_class}.".startswith(SECONDARY_CAPTURE)
        or text(dataset, 0x00080064) is not None,
        Flag.FOR_PROCESSING: intent == "FOR PROCESSING" or sop_class in _FOR_PROCESSING,
        Flag.MODALITY_MISSING: modality.is_missing,
    }
    flags = {flag for flag, value in is_set.items() if value}
    return Description(facts, flags, modality.exclusion, modality.deviation, photometric_problem)


def _modality(header: DicomHeader, accepted: frozenset[str]) -> ModalityCheck:
    """The modality; a digital radiograph that calls itself one needs no closer look."""
    is_usual = header.sop_class in DX_CLASSES and text(header.dataset, 0x00080060) == "DX"
    # With a Directory Record Sequence it would be a DICOMDIR.
    if is_usual and "DX" in accepted and 0x00041220 not in header.dataset:
        return ModalityCheck("DX")
    return check_modality(header, accepted)


def frame_count(dataset: Dataset) -> int:
    """Return Number of Frames (0028,0008); 1 where it is absent or not a positive whole number."""
    return max(1, integer(dataset, 0x00280008) or 1)


def read_shape(dataset: Dataset, description: Description) -> tuple[FrameShape, StoredLayout]:
    """Read the size of every frame, and which bits of its cells hold the value.

    Args:
        dataset: The header.
        description: What `describe` returned for it.

    Returns:
        Rows, columns, samples and bits of every frame as the header claims them; and the bits and
        the sign of a stored value. An absent Bits Stored is taken as Bits Allocated, an absent
        High Bit as Bits Stored - 1.

    Raises:
        ReadingError: `corrupt` without rows or columns, or if the value does not fit into the bits
            allocated; `unsupported_image` for a colour space, samples per pixel, bits allocated or
            an odd width that are not read.
    """
    facts = description.facts
    if not facts.rows or not facts.columns or facts.rows < 0 or facts.columns < 0:
        raise ReadingError(Outcome.CORRUPT, "the header gives no rows or no columns")
    photometric = facts.photometric
    if photometric is None:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, description.photometric_problem)
    if photometric not in GREYSCALES and photometric not in COLOUR_SPACES:
        detail = f"photometric interpretation {photometric}"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
    samples = 1 if photometric in GREYSCALES or photometric == "PALETTE COLOR" else 3
    if (integer(dataset, 0x00280002) or samples) != samples:
        detail = "samples per pixel do not fit the photometric interpretation"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
    if photometric == "YBR_FULL_422" and facts.columns % 2:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "YBR_FULL_422 with an odd width")
    allocated = integer(dataset, 0x00280100)
    if allocated not in (1, 8, 12, 16, 32):
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "bits allocated that are not read")
    stored = integer(dataset, 0x00280101) or allocated
    high = integer(dataset, 0x00280102)
    high = stored - 1 if high is None else high
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise ReadingError(Outcome.CORRUPT, "bits stored do not fit into bits allocated")
    is_signed = integer(dataset, 0x00280103) == 1
    shape = FrameShape(
        rows=facts.rows,
        columns=facts.columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        photometric=photometric,
        planar=integer(dataset, 0x00280006) == 1,
        is_signed=is_signed,
    )
    return shape, StoredLayout(bits_stored=stored, high_bit=high, is_signed=is_signed)


def pixel_aspect(dataset: Dataset) -> float:
    """Return the height of a pixel over its width, 1 where the header gives nothing usable.

    The first element with two positive numbers decides, of Pixel Aspect Ratio (0028,0034), Pixel
    Spacing, Imager Pixel Spacing and Nominal Scanned Pixel Spacing. A ratio over 8 or under 1/8
    counts as an error of the writer, and 1 is returned.

    Source: PS3.3 C.7.6.3.1.7: vertical to horizontal, or the spacing of rows and columns.
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
    term = " ".join(capitals(dataset, tag).split())
    return term if term in terms else None


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
    """A UID, or None for anything that is none: UIDs become names of other things."""
    uids = [str(uid).strip("\0 ") for uid in values_of(dataset, tag)]
    uid = uids[0] if len(uids) == 1 else ""
    return uid if 0 < len(uid) <= _LONGEST_UID and set(uid) <= set("0123456789.") else None


def _was_lossy(dataset: Dataset) -> bool:
    """Whether pixels were ever compressed with loss, however they are stored (C.7.6.1.1.5).

    Lossy Image Compression (0028,2110) decides; where it is absent, a Lossy Image Compression
    Ratio (0028,2112) over 1 does.
    """
    value = integer(dataset, 0x00282110)
    if value is not None:
        return value == 1
    return any(ratio > 1 for ratio in numbers(dataset, 0x00282112) or ())


def _read_photometric(dataset: Dataset) -> tuple[str | None, str]:
    """Photometric Interpretation (0028,0004) as the standard spells it, and what is wrong with it.

    Case, blanks, underscores and other punctuation do not count, as in DCMTK. The name is None
    where the standard does not know it; the problem is empty where there is none.
    """
    written = next(decodings(dataset, 0x00280004), "")
    if not written:
        return None, "the header has no Photometric Interpretation (0028,0004)"
    spellings = {re.sub("[^A-Z0-9]", "", part.upper()) for part in written.split("\\")} - {""}
    name = _PHOTOMETRICS.get(spellings.pop()) if len(spellings) == 1 else None
    if name is None:
        return None, describe_unknown("photometric interpretation", written)
    if name != written:
        return name, f"photometric interpretation {name} is misspelt"
    # A space is to fill it up (PS3.5 section 6.2).
    is_filled_up = (raw_bytes(dataset, 0x00280004) or b"").endswith(b"\0")
    return name, "photometric interpretation is filled up with a NUL" if is_filled_up else ""


def _is_lateral(dataset: Dataset) -> bool:
    """Whether the header says that an image shows the body from its side.

    Asked in turn, until one says something known: View Position (0018,5101), View Code Sequence
    (0054,0220), Patient Orientation (0020,0020).
    """
    views = set(re.split("[^A-Z]+", capitals(dataset, 0x00185101)))
    is_named = not views.isdisjoint(vocabulary.LATERAL_VIEWS)
    if is_named is views.isdisjoint(vocabulary.OTHER_VIEWS):
        return is_named
    code, _ = _code(dataset, 0x00540220)
    if code in vocabulary.LATERAL_CODES or code in vocabulary.FRONTAL_CODES:
        return code in vocabulary.LATERAL_CODES
    return _is_sagittal(text(dataset, 0x00200020) or "")


def _is_sagittal(orientation: str) -> bool:
    """Whether rows and columns run front to back and head to foot (PS3.3 C.7.6.1.1.1).

    The first letter of each direction is the main one; others tell how it is tilted.
    """
    directions = [direction.strip() for direction in orientation.upper().split("\\")]
    if not all(direction and set(direction) <= set("ALRPHF") for direction in directions):
        return False
    main = {direction[0] for direction in directions}
    return len(directions) == 2 and bool(main & set("AP")) and bool(main & set("HF"))


def _view_position(dataset: Dataset) -> str | None:
    """View Position (0018,5101) if it consists of words for views."""
    written = text(dataset, 0x00185101) or ""
    views = set(re.split("[^A-Z]+", written.upper())) - {""}
    is_known = not any(c.isdigit() or ord(c) > 0x7F for c in written)
    return written if views and views <= vocabulary.VIEWS and is_known else None


def _body_part(dataset: Dataset) -> str | None:
    """Body Part Examined (0018,0015) if it consists of known words; CHEST if it names the chest."""
    named = None
    for written in decodings(dataset, 0x00180015):
        if written in _CHEST or vocabulary.is_body_part(written):
            return written
        if vocabulary.names_chest(written):
            named = "CHEST"
    return named


def _is_other_body_part(dataset: Dataset) -> bool:
    """Whether the header names a body part, and not the chest.

    Body Part Examined (0018,0015) decides, in any language, and Anatomic Region Sequence
    (0008,2218) where it is absent or says as much as "unknown".
    """
    written = list(decodings(dataset, 0x00180015))
    if written and re.sub(r"[^\w]", "", written[0].upper()) not in vocabulary.UNSPECIFIED:
        return not any(part in _CHEST or vocabulary.names_chest(part) for part in written)
    code, meaning = _code(dataset, 0x00082218)
    if not code and not meaning:
        return False
    return code not in vocabulary.CHEST_CODES and not vocabulary.names_chest(meaning)


def _code(dataset: Dataset, tag: int) -> tuple[str, str]:
    """Code Value and Code Meaning of a sequence's first item in capitals, empty if absent."""
    item = first_item(dataset, tag)
    return ("", "") if item is None else (capitals(item, 0x00080100), capitals(item, 0x00080104))

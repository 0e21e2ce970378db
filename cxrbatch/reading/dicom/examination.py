"""What was examined and from which side, as far as a header tells.

A plain attribute says it best, a code sequence second; what neither knows, the Patient Orientation
may show. Codes are SNOMED's, each as the SCT number and as the older SRT code of the same concept.
"""

import re

from pydicom.dataset import Dataset

from cxrbatch.reading.dicom.body_parts import is_body_part, names_chest
from cxrbatch.reading.dicom.elements import decodings, first_item, text

# View Position: the defined terms of PS3.3 C.8.1.1 and what is written in their place. A
# decubitus view (LLD, RLD) is frontal, of a patient who lies on one side.
_LATERAL_WORDS = frozenset({"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "PROFIL", "PERFIL"})
_OTHER_WORDS = frozenset({"AP", "PA", "LLD", "RLD", "LLO", "RLO", "DECUBITUS", "DECUB"})

# What a view is called beside that, by position, side and device.
_PLACES = """
ANTERIOR ANTERO ANTEROPOSTERIOR APICAL AXIAL B BEDSIDE CC CROSS ERECT FRONTAL INFERIOR L LAO LEFT LM
LORDOTIC LPO LT ML MLO MOBILE OBL OBLIQUE PORTABLE POSTERIOR POSTERO POSTEROANTERIOR PRONE R RAO
RIGHT RPO RT SEMI SEMIERECT SITTING STANDING SUPERIOR SUPINE SWIMMERS TABLE TANGENTIAL UNKNOWN
UPRIGHT VIEW X XTABLE XX
"""
_VIEW_WORDS = _LATERAL_WORDS.union(_OTHER_WORDS, _PLACES.split())

# PS3.16 CID 4010 "DX View": lateral; left lateral; right lateral; lateral-medial; medial-lateral;
# sagittal.
_LATERAL_CODES = frozenset(
    {
        *("399067008", "399173006", "399198007", "399352003", "399260004", "30730003"),
        *("R-102CD", "R-10236", "R-10232", "R-10228", "R-10224", "G-A145"),
    }
)
# Of the same: frontal; antero-posterior; postero-anterior.
_FRONTAL_CODES = frozenset(("399033003", "399348003", "272479007", "R-10202", "R-10206", "R-40888"))

# PS3.16 CID 4031 "Common Anatomic Region" and its forerunners: chest; thorax; lung.
_CHEST_CODES = frozenset({"816094009", "51185008", "T-D3000", "39607008", "T-28000"})
_UNSAID = frozenset({"UNKNOWN", "UNSPECIFIED", "NONE", "NA", "XX"})


def is_lateral(dataset: Dataset) -> bool:
    """Whether the header says that an image shows the body from its side.

    Asked in turn, until one says something known: View Position (0018,5101), View Code Sequence
    (0054,0220), Patient Orientation (0020,0020).
    """
    words = set(re.split("[^A-Z]+", (text(dataset, 0x00185101) or "").upper()))
    is_named = bool(words & _LATERAL_WORDS)
    if is_named is not bool(words & _OTHER_WORDS):
        return is_named
    code, _ = _code(dataset, 0x00540220)
    if code in _LATERAL_CODES | _FRONTAL_CODES:
        return code in _LATERAL_CODES
    return _is_sagittal(text(dataset, 0x00200020) or "")


def view_position(dataset: Dataset) -> str | None:
    """View Position (0018,5101) if it consists of words for views."""
    written = text(dataset, 0x00185101) or ""
    words = set(re.split("[^A-Z]+", written.upper())) - {""}
    is_known = not any(c.isdigit() or ord(c) > 0x7F for c in written)
    return written if words and words <= _VIEW_WORDS and is_known else None


def body_part(dataset: Dataset) -> str | None:
    """Body Part Examined (0018,0015) if it consists of known words; CHEST if it names the chest."""
    named = None
    for written in decodings(dataset, 0x00180015):
        if is_body_part(written):
            return written
        if names_chest(written):
            named = "CHEST"
    return named


def is_other_body_part(dataset: Dataset) -> bool:
    """Whether the header names a body part, and not the chest.

    Body Part Examined (0018,0015) decides, in any language, and Anatomic Region Sequence
    (0008,2218) where it is absent or says as much as "unknown".
    """
    written = list(decodings(dataset, 0x00180015))
    if written and re.sub(r"[^\w]", "", written[0].upper()) not in {"", *_UNSAID}:
        return not any(names_chest(reading) for reading in written)
    code, meaning = _code(dataset, 0x00082218)
    if not code and not meaning:
        return False
    return code not in _CHEST_CODES and not names_chest(meaning)


def _code(dataset: Dataset, tag: int) -> tuple[str, str]:
    """Code Value and Code Meaning of a sequence's first item in capitals, empty if absent."""
    item = first_item(dataset, tag)
    if item is None:
        return "", ""
    value, meaning = ((text(item, part) or "").upper() for part in (0x00080100, 0x00080104))
    return value, meaning


def _is_sagittal(orientation: str) -> bool:
    """Whether rows and columns run front to back and head to foot (PS3.3 C.7.6.1.1.1).

    The first letter of each direction is the main one; others tell how it is tilted.
    """
    directions = [direction.strip() for direction in orientation.upper().split("\\")]
    if not all(direction and set(direction) <= set("ALRPHF") for direction in directions):
        return False
    main = {direction[0] for direction in directions}
    return len(directions) == 2 and bool(main & set("AP")) and bool(main & set("HF"))

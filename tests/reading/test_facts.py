"""Header facts and flags: short, printable, and without what names a patient."""

import logging
import warnings

import pytest
from makers import make_dicom, make_hostile, ramp
from pydicom.dataset import Dataset
from pydicom.sr.codedict import Code, codes

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes
from cxrbatch.reading.readings import age_bin

NAME = "Doe^Jane"


def read(elements: dict, modality: str | None = "DX") -> Reading:
    (reading,) = iterate_radiographs_bytes(make_dicom(ramp(), elements=elements, modality=modality))
    return reading


def test_facts_of_a_header() -> None:
    reading = read(
        {
            0x00080050: ("SH", "ACC-5"),
            0x00080068: ("CS", "FOR PRESENTATION"),
            0x00080070: ("LO", "Maker"),
            0x00081090: ("LO", "Model 1"),
            0x00100020: ("LO", "ID-17"),
            0x00100021: ("LO", "Clinic-3"),
            0x00100040: ("CS", "F"),
            0x00101010: ("AS", "045Y"),
            0x00180015: ("CS", "CHEST"),
            0x00185101: ("CS", "PA"),
            0x0020000D: ("UI", "1.2.5"),
            0x0020000E: ("UI", "1.2.6"),
            0x00200062: ("CS", "U"),
        }
    )
    facts = reading.facts
    assert (facts.modality, facts.body_part, facts.view_position) == ("DX", "CHEST", "PA")
    assert (facts.laterality, facts.patient_sex, facts.patient_age_bin) == ("U", "F", "40-49")
    assert (facts.manufacturer, facts.model_name) == ("Maker", "Model 1")
    assert (facts.rows, facts.columns, facts.bits_stored) == (40, 50, 12)
    assert (facts.study_instance_uid, facts.series_instance_uid) == ("1.2.5", "1.2.6")
    assert facts.sop_instance_uid == "1.2.3.4"
    assert facts.presentation_intent == "FOR PRESENTATION"
    assert facts.patient_id == "ID-17"
    assert facts.patient_issuer == "Clinic-3"
    assert facts.accession_number == "ACC-5"
    assert "ID-17" not in repr(reading)
    assert "ACC-5" not in repr(reading)
    assert "Clinic-3" not in repr(reading)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("F", "F"), ("M ", "M"), ("O", "O"), ("DOE JANE", None), ("19410203", None), ("", None)],
)
def test_a_sex_is_one_of_three_letters_or_nothing(written: str, expected: str | None) -> None:
    assert read({0x00100040: ("CS", written)}).facts.patient_sex == expected


def coded(tag: int, value: str, meaning: str = "", *, scheme: str = "SCT") -> dict:
    """A code sequence of one item (PS3.3 section 8.8)."""
    item = Dataset()
    item.add_new(0x00080100, "SH", value)
    item.add_new(0x00080102, "SH", scheme)
    item.add_new(0x00080104, "LO", meaning)
    return {tag: ("SQ", [item])}


LATERAL_CODE = coded(0x00540220, codes.cid4010.LeftLateral.value)
FRONTAL_CODE = coded(0x00540220, codes.cid4010.PosteroAnterior.value)
FRONTAL_VIEWS = ("Frontal", "AnteroPosterior", "PosteroAnterior")
VIEWS = {
    "R-102CD": "LateralProjection",
    "R-10236": "LeftLateral",
    "R-10232": "RightLateral",
    "R-10228": "LateralMedial",
    "R-10224": "MedioLateralProjection",
    "G-A145": "Sagittal",
    "R-10202": "Frontal",
    "R-10206": "AnteroPosterior",
    "R-40888": "PosteroAnterior",
}
"""Codes of SNOMED RT, and what pydicom calls the view."""


@pytest.mark.parametrize(
    ("elements", "flag"),
    [
        ({0x00185101: ("CS", "LL")}, Flag.LATERAL),
        ({0x00185101: ("CS", "LATERAL")}, Flag.LATERAL),
        ({0x00185101: ("CS", "Left lat. ")}, Flag.LATERAL),
        ({0x00180015: ("CS", "KNEE")}, Flag.NOT_CHEST_TAG),
        ({0x00180015: ("CS", "BRUSTWIRBEL")}, Flag.NOT_CHEST_TAG),
        ({0x00280301: ("CS", "YES")}, Flag.BURNED_IN_RISK),
        ({0x00280301: ("CS", "yes ")}, Flag.BURNED_IN_RISK),
        ({0x00282110: ("CS", "01")}, Flag.LOSSY),
        ({0x00282110: ("CS", "1 ")}, Flag.LOSSY),
        ({0x00282110: ("CS", "01"), 0x00282112: ("DS", "1")}, Flag.LOSSY),
        ({0x00282112: ("DS", ["1", "7.5"])}, Flag.LOSSY),
        ({0x00282110: ("CS", ""), 0x00282112: ("DS", "12")}, Flag.LOSSY),
        ({0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.7")}, Flag.SECONDARY_CAPTURE),
        ({0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.7.2")}, Flag.SECONDARY_CAPTURE),
        ({0x00080064: ("CS", "SD")}, Flag.SECONDARY_CAPTURE),
        ({0x00080064: ("CS", "wsd ")}, Flag.SECONDARY_CAPTURE),
        ({0x00080068: ("CS", "FOR PROCESSING")}, Flag.FOR_PROCESSING),
        ({0x00080068: ("CS", "For  Processing ")}, Flag.FOR_PROCESSING),
        ({0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.1.1.1")}, Flag.FOR_PROCESSING),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_header_flags(elements: dict, flag: Flag) -> None:
    assert read(elements).flags == tuple(f for f in Flag if f in (flag, Flag.NO_VOI))
    assert flag.meaning.endswith(".")


@pytest.mark.parametrize(
    "elements",
    [
        {0x00185101: ("CS", "PA")},
        {0x00180015: ("CS", "CHEST")},
        {0x00180015: ("CS", "THORAX")},
        {0x00180015: ("CS", "chest ")},
        {0x00180015: ("CS", "CHESTABDOMEN")},
        {0x00180015: ("CS", "UNKNOWN")},
        {0x00180015: ("CS", "*")},
        {0x00280301: ("CS", "NO")},
        {0x00282110: ("CS", "00")},
        {0x00282110: ("CS", "00"), 0x00282112: ("DS", "2.5")},
        {0x00282112: ("DS", "1")},
        {0x00080064: ("CS", "")},
        {0x00080068: ("CS", "FOR PRESENTATION")},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_ordinary_headers_have_no_flag(elements: dict) -> None:
    assert read(elements).flags == (Flag.NO_VOI,)


@pytest.mark.parametrize(("old", "name"), VIEWS.items())
def test_views_are_known_by_new_and_old_codes(old: str, name: str) -> None:
    new = getattr(codes.cid4010, name)
    assert Code(old, "SRT", "") == new
    is_frontal = name in FRONTAL_VIEWS
    # Would decide the other way, were the code not known.
    contrary = {0x00200020: ("CS", ["A" if is_frontal else "L", "F"])}
    for value in (new.value, old):
        reading = read({**coded(0x00540220, value), **contrary})
        assert (Flag.LATERAL in reading.flags) is not is_frontal


@pytest.mark.parametrize(
    ("elements", "is_lateral"),
    [
        ({**LATERAL_CODE, 0x00185101: ("CS", "PA")}, False),
        ({**LATERAL_CODE, 0x00185101: ("CS", "LLD")}, False),
        ({**LATERAL_CODE, 0x00185101: ("CS", "RLO")}, False),
        ({**LATERAL_CODE, 0x00185101: ("CS", "XX")}, True),
        ({**LATERAL_CODE, 0x00185101: ("CS", "")}, True),
        ({**LATERAL_CODE, 0x00200020: ("CS", ["L", "F"])}, True),
        ({**FRONTAL_CODE, 0x00185101: ("CS", "RL")}, True),
        ({**FRONTAL_CODE, 0x00200020: ("CS", ["P", "F"])}, False),
        ({**coded(0x00540220, "Z-1", "?", scheme="99X"), 0x00200020: ("CS", ["A", "F"])}, True),
        ({0x00540220: ("SQ", []), 0x00200020: ("CS", ["A", "F"])}, True),
        ({0x00185101: ("CS", "PA"), 0x00200020: ("CS", ["A", "F"])}, False),
        ({0x00185101: ("CS", "LAT. DECUBITUS")}, False),
        ({0x00200020: ("CS", ["L", "F"])}, False),
        ({0x00200020: ("CS", ["R", "F"])}, False),
        ({0x00200020: ("CS", ["a ", "fl"])}, True),
        ({0x00200020: ("CS", ["PR", "F"])}, True),
        ({0x00200020: ("CS", ["F", "P"])}, True),
        ({0x00200020: ("CS", ["F", "L"])}, False),
        ({0x00200020: ("CS", ["L", "P"])}, False),
        ({0x00200020: ("CS", "PA")}, False),
        ({0x00200020: ("CS", ["A", "V"])}, False),
        ({0x00200020: ("CS", ["A", ""])}, False),
        ({0x00200020: ("CS", ["A", "F", "A"])}, False),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_the_first_of_three_that_says_something_known_names_the_view(
    elements: dict, is_lateral: bool
) -> None:
    assert (Flag.LATERAL in read(elements).flags) is is_lateral


@pytest.mark.parametrize(
    ("elements", "is_other"),
    [
        (coded(0x00082218, "51185008"), False),
        (coded(0x00082218, "T-D3000", "Thoracic structure"), False),
        (coded(0x00082218, codes.cid4031.Chest.value), False),
        (coded(0x00082218, "t-28000 "), False),
        (coded(0x00082218, "R-FAB55", "Chest and Abdomen"), False),
        (coded(0x00082218, codes.cid4031.Knee.value, "Knee"), True),
        (coded(0x00082218, codes.cid4031.ThoracicSpine.value, "Thoracic spine"), True),
        (coded(0x00082218, "", ""), False),
        ({0x00082218: ("SQ", [])}, False),
        ({**coded(0x00082218, "51185008"), 0x00180015: ("CS", "HAND")}, True),
        ({**coded(0x00082218, "X-1", "Hand"), 0x00180015: ("CS", "CHEST")}, False),
        ({**coded(0x00082218, "X-1", "Hand"), 0x00180015: ("CS", "UNKNOWN")}, True),
    ],
)
def test_the_region_is_asked_where_no_body_part_is_named(elements: dict, is_other: bool) -> None:
    assert (Flag.NOT_CHEST_TAG in read(elements).flags) is is_other


@pytest.mark.parametrize("tag", [0x00082218, 0x00540220, 0x00200020, 0x00282112])
@pytest.mark.parametrize("value", [b"\xfe\xff\x00\xe0\xff\xff\xff\x7f", b"\0" * 9, b"A" * 70_000])
def test_broken_values_say_nothing(tag: int, value: bytes) -> None:
    (reading,) = iterate_radiographs_bytes(make_hostile({tag: value}))
    assert reading.outcome is Outcome.SCORED
    assert reading.flags == (Flag.NO_VOI,)


def test_a_missing_modality_is_scored_and_flagged() -> None:
    reading = read({}, modality=None)
    assert reading.outcome is Outcome.SCORED
    assert Flag.MODALITY_MISSING in reading.flags


@pytest.mark.parametrize(
    ("age", "birth", "study", "expected"),
    [
        ("045Y", None, None, "40-49"),
        ("009Y", None, None, "0-9"),
        ("018M", None, None, "0-9"),
        ("130M", None, None, "10-19"),
        ("003W", None, None, "0-9"),
        ("010D", None, None, "0-9"),
        ("090Y", None, None, "90+"),
        ("119Y", None, None, "90+"),
        (None, "19600630", "20100629", "40-49"),
        (None, "19600630", "20100630", "50-59"),
        ("", "19600630", "20100630", "50-59"),
        ("999Y", None, None, None),
        ("999Y", "19800101", "20200101", "40-49"),
        ("Y", None, None, None),
        ("-12Y", None, None, None),
        ("²³Y", None, None, None),
        (None, "20200101", "20100101", None),
        (None, "1960", "20100101", None),
        ("DOE", "19600630", "20100630", "50-59"),
        (None, None, None, None),
    ],
)
def test_age_bins(
    age: str | None, birth: str | None, study: str | None, expected: str | None
) -> None:
    assert age_bin(age, birth_date=birth, study_date=study) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *((age, "40-49") for age in ("42", "042", "42 Y", "42YR", "042y", "Y042", "42.5Y", "42,5")),
        *((age, "40-49") for age in ("42 years", "42 y.o.", "42 Y/O", "42 years old", "AGE 42")),
        *((age, "40-49") for age in ("42 J", "42 Jahre", "42A", "42 ans", "42 años", "42 anni")),
        *(
            (age, "40-49")
            for age in ("42 лет", "42岁", "42歳", "４２Ｙ", "٤٢", "042Y\\042Y", "042Y\\")
        ),
        *(
            (age, "0-9")
            for age in ("0Y", "000Y", "6M", "6 MONTHS", "18 mois", "3 Wochen", "10 days")
        ),
        *((age, "40-49") for age in ("00042Y", "000042", "00042Y6M")),
        *((age, None) for age in ("4 2Y", "M42", "42/M", "W 42", "0004 2Y", "6M1Y")),
        *((age, "0-9") for age in ("1Y6M", "4歳2ヶ月", "6 個月", "60M")),
        ("1200M", "90+"),
        *((age, None) for age in ("-5Y", "+5Y", "999Y", "150Y", "1945", "19450312", "042Y\\080Y")),
        *((age, None) for age in ("42 Doe", "Doe 42", "3/4", "42Y1", "1e2", "4 2", "adult", "³Y")),
    ],
)
def test_ages_as_people_write_them(written: str, expected: str | None) -> None:
    assert age_bin(written, birth_date=None, study_date=None) == expected


HOSTILE = [
    b"x" * 60_000,
    b"\\".join([b"a"] * 500),
    b"\x1b[31m\x00\x07\r\n<script>",
    b"\xff\xfe\x80",
    b"",
]


@pytest.mark.parametrize("tag", [0x00080060, 0x00101010, 0x00180015, 0x00280010, 0x00281050])
@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_become_short_printable_text(tag: int, value: bytes) -> None:
    (reading,) = iterate_radiographs_bytes(make_hostile({tag: value}))
    for name in reading.facts.__slots__:
        fact = getattr(reading.facts, name)
        if isinstance(fact, str):
            assert len(fact) <= 64
            assert fact.isprintable()
    assert reading.detail.isprintable()


def test_uids_are_uids_or_nothing() -> None:
    (reading,) = iterate_radiographs_bytes(make_hostile({0x0020000D: b"1.2.x/../y"}))
    assert reading.facts.study_instance_uid is None


def test_nothing_about_the_patient_is_logged_warned_or_told(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tags = (0x00100010, 0x00100020, 0x00100030, 0x00101010, 0x00280008, 0x00281050, 0x00281053)
    data = make_hostile(dict.fromkeys(tags, NAME.encode()))
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        (reading,) = iterate_radiographs_bytes(data)
    assert reading.facts.patient_id == NAME
    output = capfd.readouterr()
    told = caplog.text + output.out + output.err + repr(reading)
    assert NAME not in told + "".join(str(warning.message) for warning in caught)

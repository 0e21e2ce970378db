"""Header facts and flags: short, printable, and without what names a patient."""

import logging
import warnings

import pytest
from makers import make_dicom, make_hostile, ramp

from cxrbatch.reading.facts import age_bin
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, read_radiographs_bytes

NAME = "Doe^Jane"


def read(elements: dict, modality: str | None = "DX") -> Reading:
    (reading,) = read_radiographs_bytes(make_dicom(ramp(), elements=elements, modality=modality))
    return reading


def test_facts_of_a_header() -> None:
    reading = read(
        {
            0x00080068: ("CS", "FOR PRESENTATION"),
            0x00080070: ("LO", "Maker"),
            0x00081090: ("LO", "Model 1"),
            0x00100020: ("LO", "ID-17"),
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
    assert "ID-17" not in repr(reading)


@pytest.mark.parametrize(
    ("elements", "flag"),
    [
        ({0x00185101: ("CS", "LL")}, Flag.LATERAL),
        ({0x00185101: ("CS", "LATERAL")}, Flag.LATERAL),
        ({0x00180015: ("CS", "KNEE")}, Flag.NOT_CHEST_TAG),
        ({0x00280301: ("CS", "YES")}, Flag.BURNED_IN_RISK),
        ({0x00282110: ("CS", "01")}, Flag.LOSSY),
        ({0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.7")}, Flag.SECONDARY_CAPTURE),
        ({0x00080064: ("CS", "SD")}, Flag.SECONDARY_CAPTURE),
        ({0x00080068: ("CS", "FOR PROCESSING")}, Flag.FOR_PROCESSING),
    ],
)
def test_header_flags(elements: dict, flag: Flag) -> None:
    assert read(elements).flags == tuple(f for f in Flag if f in (flag, Flag.NO_VOI))
    assert flag.meaning.endswith(".")


@pytest.mark.parametrize(
    "elements",
    [{0x00185101: ("CS", "PA")}, {0x00180015: ("CS", "CHEST")}, {0x00180015: ("CS", "THORAX")}],
)
def test_ordinary_headers_have_no_flag(elements: dict) -> None:
    assert read(elements).flags == (Flag.NO_VOI,)


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
        ("Y", None, None, None),
        ("-12Y", None, None, None),
        ("²³Y", None, None, None),
        (None, "20200101", "20100101", None),
        (None, "1960", "20100101", None),
        (None, None, None, None),
    ],
)
def test_age_bins(
    age: str | None, birth: str | None, study: str | None, expected: str | None
) -> None:
    assert age_bin(age, birth_date=birth, study_date=study) == expected


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
    (reading,) = read_radiographs_bytes(make_hostile({tag: value}))
    for name in reading.facts.__slots__:
        fact = getattr(reading.facts, name)
        if isinstance(fact, str):
            assert len(fact) <= 64
            assert fact.isprintable()
    assert reading.detail.isprintable()


def test_uids_are_uids_or_nothing() -> None:
    (reading,) = read_radiographs_bytes(make_hostile({0x0020000D: b"1.2.x/../y"}))
    assert reading.facts.study_instance_uid is None


def test_nothing_about_the_patient_is_logged_warned_or_told(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tags = (0x00100010, 0x00100020, 0x00100030, 0x00101010, 0x00280008, 0x00281050, 0x00281053)
    data = make_hostile(dict.fromkeys(tags, NAME.encode()))
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        (reading,) = read_radiographs_bytes(data)
    assert reading.facts.patient_id == NAME
    output = capfd.readouterr()
    told = caplog.text + output.out + output.err + repr(reading)
    assert NAME not in told + "".join(str(warning.message) for warning in caught)

"""What a header says about an image, without what names its patient."""

from dataclasses import dataclass, field

from cxrbatch.reading.ages import years_of_age


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """Header values that a table may hold, as short printable text; None where absent.

    `patient_id` and its issuer, who is an institution, are the exception: they are there to be
    turned into a keyed hash, are left out of the repr, and must not be stored or printed.
    """

    modality: str | None = None
    body_part: str | None = None
    view_position: str | None = None
    laterality: str | None = None
    patient_sex: str | None = None
    patient_age_bin: str | None = None
    manufacturer: str | None = None
    model_name: str | None = None
    photometric: str | None = None
    transfer_syntax: str | None = None
    presentation_intent: str | None = None
    rows: int | None = None
    columns: int | None = None
    bits_stored: int | None = None
    voi_source: str | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    patient_id: str | None = field(default=None, repr=False)
    patient_issuer: str | None = field(default=None, repr=False)


def age_bin(age: str | None, *, birth_date: str | None, study_date: str | None) -> str | None:
    """Decade of life, "0-9" to "90+"; None where nothing usable is said.

    Args:
        age: Patient Age (0010,1010), such as "045Y", "18M", "3W" or "10D", or as people write it.
        birth_date: Patient's Birth Date (0010,0030), YYYYMMDD; used where no age is usable.
        study_date: Study Date (0008,0020), YYYYMMDD.
    """
    possible = (years_of_age(age or ""), _years_between(birth_date, study_date))
    years = next((years for years in possible if years is not None and 0 <= years < 130), None)
    if years is None:
        return None
    decade = years // 10 * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def _years_between(birth_date: str | None, study_date: str | None) -> int | None:
    dates = [(date or "").replace(".", "") for date in (birth_date, study_date)]
    if not all(len(date) == 8 and date.isascii() and date.isdigit() for date in dates):
        return None
    birth, study = (int(date) for date in dates)
    # 0101 to 1231 as a number is below 10000: a birthday still to come takes a year off.
    return (study - birth) // 10_000 if study >= birth else None

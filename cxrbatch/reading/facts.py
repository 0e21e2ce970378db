"""What a header says about an image, without what names its patient."""

import re
import unicodedata
from dataclasses import dataclass, field

# Letters that do not fall apart into a base letter and a mark.
_BASE_LETTERS = str.maketrans("ŁØĐÆŒƏ", "LODEOE")


def plain_capitals(written: str) -> str:
    """Text in capitals without accents, in the plain forms of its letters and digits."""
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", written).upper())
    plain = "".join(c for c in parts if unicodedata.category(c) != "Mn")
    return plain.translate(_BASE_LETTERS)


# What units are called, in plain capitals: the standard's letters first, then words of other
# languages.
_UNITS = {
    1: "Y YR YRS YEAR YEARS YO YOA A AN ANS ANO ANOS ANNO ANNI ANNEE ANNEES J JAHR JAHRE JAHREN "
    "JAAR JR R ROK ROKY LAT LATA LET AR VUOTTA EV YAS YASINDA TUOI TAHUN Г ГОД ГОДА ЛЕТ Л РОКIВ "
    "ГОДИНИ ΕΤΩΝ ΕΤΗ 岁 歲 歳 才 세 살 سنة سنوات عام سال שנים שנה ปี",
    12: "M MO MOS MON MTH MTHS MONTH MONTHS MONAT MONATE MONATEN MOIS MES MESES MESE MESI MAAND "
    "MAANDEN MND AY MEC МЕС МЕСЯЦ МЕСЯЦА МЕСЯЦЕВ ΜΗΝΩΝ 月 个月 個月 ヶ月 か月 カ月 月齢 개월 شهر",
    52: "W WK WKS WEEK WEEKS WOCHE WOCHEN SEM SEMAINE SEMAINES SEMANA SEMANAS SETTIMANA SETTIMANE "
    "WEKEN НЕД НЕДЕЛЯ НЕДЕЛИ НЕДЕЛЬ 周 週 주 أسبوع",
    365: "D DY DAY DAYS TAG TAGE TAGEN JOUR JOURS DIA DIAS GIORNO GIORNI DAG DAGEN GUN Д ДН ДЕНЬ "
    "ДНЯ ДНЕЙ ΗΜΕΡΩΝ 天 日 일 يوم",
}
_PER_YEAR = {
    plain_capitals(word): count for count, words in _UNITS.items() for word in words.split()
}
_FILLERS = frozenset({"O", "OLD", "OF", "AGE", "AGED", "ALT", "EDAD"})
_WORDS = r"((?:[^\W\d_]|[\s.:/_])*)"
_AGE = re.compile(rf"{_WORDS}0*(\d{{1,4}})(?:[.,]\d{{1,2}})?{_WORDS}(?:\d{{1,3}}{_WORDS})?")
_WORD = re.compile(r"[^\W\d_]+")


def years_of_age(age: str) -> int | None:
    """Full years; a number alone is in years; None where nothing usable is said.

    "042Y", "42", "42 years", "Y042", "42.5Y" and "1Y6M" have a meaning; "-5Y", "Y", "42/M" and
    "M42" have none, or two. Of several values each must have one, and they must agree.

    Source: DICOM PS3.5 table 6.2-1 (AS).
    """
    years = {_one_age(part) for part in age.split("\\") if part.strip()}
    return years.pop() if len(years) == 1 else None


def _one_age(age: str) -> int | None:
    # Superscripts and the like are digits in name only.
    if any(c.isdigit() and not c.isdecimal() for c in age):
        return None
    plain = "".join(str(int(c)) if c.isdecimal() else c for c in plain_capitals(age))
    found = _AGE.fullmatch(plain.strip())
    if found is None:
        return None
    before, behind = _WORD.findall(found[1]), _WORD.findall(found[3])
    # M in front of a number, or behind a slash, is a sex as likely as a month.
    doubtful = before + (behind if "/" in plain else [])
    if any(_PER_YEAR.get(word, 1) != 1 for word in doubtful):
        return None
    words = before + behind
    units = [_PER_YEAR[word] for word in words if word in _PER_YEAR]
    is_known = all(word in _PER_YEAR or word in _FILLERS for word in words)
    # Of "1Y6M" the smaller unit adds less than a year.
    minor = _WORD.findall(found[4] or "")
    is_composed = bool(minor and behind and all(word in _PER_YEAR for word in minor))
    if found[4] is not None and not is_composed:
        return None
    if not is_known or len(units) > 1:
        return None
    return int(found[2]) // (units[0] if units else 1)


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

"""The values that reading takes and returns: options, limits, header facts and Readings."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from cxrbatch.errors import UsageError, plain_number
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError

if TYPE_CHECKING:  # a process that reads no image itself starts without numpy and Arrow
    from cxrbatch.reading.display import Display, GreyImage

RADIOGRAPH_MODALITIES = frozenset({"CR", "DX", "RG"})

NO_VOI_POLICIES = ("robust", "full_range")
"""How an image without a VOI transform becomes grey levels; `display.render_grey` explains them."""

# JPEG 2000 takes up to 6 bytes a sample, by measurement; all other formats take less.
_BYTES_BESIDE_SAMPLES = 256 << 20
_BYTES_PER_SAMPLE = 8

_limit_memory: Callable[[int], object] | None = None


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """Which images are read, and up to which size.

    Attributes:
        max_pixels: Largest product of frames, rows, columns and samples per pixel that is decoded.
        modalities: Values of Modality (0008,0060) that are scored: one text, which is one code,
            or several; kept as a frozenset of codes in capitals.
        render_all: Decode excluded images too; their outcome stays, such as `not_a_radiograph`.
        no_voi: How a radiograph of over 8 bits without a VOI transform becomes grey levels, one of
            `NO_VOI_POLICIES`. Excluded images are rendered over their full range.
        least_size: Grey JPEG and JPEG 2000 images may be decoded at a half, a quarter or an eighth
            of their size if both sides still have this many pixels; None: all at full size.
    """

    max_pixels: int = 200_000_000
    modalities: frozenset[str] = RADIOGRAPH_MODALITIES
    render_all: bool = False
    no_voi: str = "robust"
    least_size: int | None = None

    def __post_init__(self) -> None:
        """Check the values, and make the modalities a frozenset of codes in capitals.

        Raises:
            UsageError: A value is of another type or out of its range, or the policy is unknown.
        """
        plain_number("max_pixels", self.max_pixels, int, 1)
        if self.least_size is not None:
            plain_number("least_size", self.least_size, int, 1)
        if not isinstance(self.render_all, bool):
            raise UsageError(f"render_all is {repr(self.render_all)[:60]}; give True or False")
        if self.no_voi not in NO_VOI_POLICIES:
            names = " or ".join(map(repr, NO_VOI_POLICIES))
            raise UsageError(f"no_voi is {repr(self.no_voi)[:60]}; give {names}")
        object.__setattr__(self, "modalities", modality_codes("modalities", self.modalities))


def modality_codes(name: str, given: object) -> frozenset[str]:
    """Return the DICOM modalities that a caller gave, one or several, stripped, in capitals.

    Args:
        name: Name of the argument, for the message.
        given: A text, which is one code, or an iterable of texts.

    Raises:
        UsageError: It is something else.
    """
    is_one = isinstance(given, str) or not isinstance(given, Iterable)
    codes: list[Any] = [given] if is_one else [*cast("Iterable[Any]", given)]
    if not all(isinstance(code, str) for code in codes):
        raise UsageError(f"{name} is no text; give a DICOM modality such as 'MG', or several")
    return frozenset(code.strip().upper() for code in codes)


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """Header values that a table may hold: short printable text and whole numbers.

    A value is None where the header lacks it or has nothing usable. `patient_age_bin` is a decade
    such as "40-49" (`age_bin`), `voi_source` names the VOI transform or policy that was applied.
    `patient_id` with `patient_issuer` (an institution) identifies the patient, `accession_number`
    the study. They serve only to compute keyed hashes: they are never written to a table, and are
    missing from `repr`, from pickles and from copies by `copy`.
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
    accession_number: str | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[type["HeaderFacts"], tuple[object, ...]]:
        """Pickle and copy the values without those that identify the patient or the study."""
        return HeaderFacts, tuple(getattr(self, f.name) for f in fields(self) if f.repr)


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading one file, or one frame of a file with several.

    Attributes:
        frame: Number of the frame, from 0.
        format: "dicom", "png", "jpeg" or "other".
        outcome: `Outcome.SCORED` if `image` may be scored; else the reason why not.
        detail: One line for a person; empty if there is nothing to add.
        facts: Header values.
        flags: Remarks on the image, each once, in the order of `Flag`.
        image: The display image; None if the file or frame could not be read or was excluded
            unread. `numpy.asarray(reading.image)` gives all its grey levels.
    """

    frame: int
    format: str
    outcome: Outcome
    detail: str
    facts: HeaderFacts
    flags: tuple[Flag, ...]
    image: "GreyImage | None"

    @property
    def display(self) -> "Display | None":
        """All grey levels of `image`, shape (rows, columns), float32 in [0, 1], 1 is white.

        None if there is no image. Each access may compute the levels anew.
        """
        return None if self.image is None else self.image.whole()


def failed_reading(
    file_format: str,
    error: ReadingError,
    *,
    facts: HeaderFacts | None = None,
    flags: Iterable[Flag] = (),
    frame: int = 0,
) -> Reading:
    """Make the Reading of a file or frame that has no image.

    Its outcome and detail are those of `error`. `file_format` is "dicom", "png", "jpeg" or
    "other"; without `facts` all header values are None.
    """
    facts, ordered = facts or HeaderFacts(), ordered_flags(flags)
    return Reading(frame, file_format, error.outcome, error.detail, facts, ordered, image=None)


def ordered_flags(flags: Iterable[Flag]) -> tuple[Flag, ...]:
    """Return each flag once, in the order of definition in `Flag`."""
    present = frozenset(flags)
    return tuple(flag for flag in Flag if flag in present)


def file_limit(max_pixels: int) -> int:
    """Return the size of the largest file that is read, in bytes: 4 x `max_pixels` + 64 MiB.

    That is room for `max_pixels` samples of 32 bits and for a large header.
    """
    return 4 * max_pixels + (64 << 20)


def memory_for(samples: int) -> int:
    """Return how much memory, in bytes, reading an image of `samples` samples may take.

    It is 256 MiB and 8 bytes a sample. Memory that the process used before is not counted.
    """
    return _BYTES_BESIDE_SAMPLES + _BYTES_PER_SAMPLE * samples


def limit_memory_with(limiter: Callable[[int], object]) -> None:
    """Set the function that limits this process's memory while it decodes an image.

    From then on `check_samples` calls it for each file whose image is within the limit. Without it
    reading limits no memory; a second call replaces the first one's `limiter`.

    Args:
        limiter: Called with the number of bytes that `memory_for` returns for the image. It must
            make the system refuse this process more than so many further bytes, as setrlimit(2)
            does. Its result is ignored.
    """
    global _limit_memory
    _limit_memory = limiter


def check_samples(samples: int, *, limit: int) -> None:
    """Refuse an image that is too large by its header, before anything is decoded.

    For an image within the limit, the function set by `limit_memory_with`, if any, is called with
    the memory that the image needs, in bytes.

    Args:
        samples: Frames x rows x columns x samples per pixel, as the header says.
        limit: The largest number of samples that is decoded.

    Raises:
        ReadingError: `too_large` if `samples` is over `limit`.
    """
    if samples > limit:
        detail = f"the header claims {samples} samples, over the limit of {limit}"
        raise ReadingError(Outcome.TOO_LARGE, detail)
    if _limit_memory is not None:
        _limit_memory(memory_for(samples))


# Letters that Unicode does not decompose into a base letter and a mark.
_BASE_LETTERS = str.maketrans("ŁØĐÆŒƏ", "LODEOE")


def plain_capitals(written: str) -> str:
    """Return a text in capitals, without accents, with letters and digits in their plain forms.

    So "Tórax" becomes "TORAX", "ø" becomes "O", and full-width letters become plain ones.
    """
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", written).upper())
    plain = "".join(c for c in parts if unicodedata.category(c) != "Mn")
    return plain.translate(_BASE_LETTERS)


# Words for a unit of time, in plain capitals, by how many of it make a year: the standard's letter
# first, then words of many languages.
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
    """Read an age as a person writes it.

    A number alone is in years. "042Y", "42", "42 years", "Y042", "42.5Y" and "1Y6M" have one
    meaning; "-5Y", "Y", "42/M" and "M42" have none, or two. Several values, separated by
    backslashes, must agree.

    Returns:
        Full years of the first number, rounded down: 1 for "18M". A second number, of a smaller
        unit, is not added. None where the text has no meaning or more than one.

    Source: DICOM PS3.5 table 6.2-1 (AS).
    """
    years = {_years_of_one(part) for part in age.split("\\") if part.strip()}
    return years.pop() if len(years) == 1 else None


def _years_of_one(age: str) -> int | None:
    # Superscripts and the like are digits, but not decimal ones: their value is not meant.
    if any(c.isdigit() and not c.isdecimal() for c in age):
        return None
    plain = "".join(str(int(c)) if c.isdecimal() else c for c in plain_capitals(age))
    match = _AGE.fullmatch(plain.strip())
    if match is None:
        return None
    before, after = _WORD.findall(match[1]), _WORD.findall(match[3])
    # M in front of a number, or behind a slash, may mean "male" as well as "months".
    doubtful = before + (after if "/" in plain else [])
    if any(_PER_YEAR.get(word, 1) != 1 for word in doubtful):
        return None
    # In "1Y6M" the second number is of a smaller unit.
    minor = _WORD.findall(match[4] or "")
    is_compound = bool(minor and after and all(word in _PER_YEAR for word in minor))
    if match[4] is not None and not is_compound:
        return None
    words = before + after
    units = [_PER_YEAR[word] for word in words if word in _PER_YEAR]
    if len(units) > 1 or not all(word in _PER_YEAR or word in _FILLERS for word in words):
        return None
    per_year = units[0] if units else 1
    if any(_PER_YEAR[word] <= per_year for word in minor):
        return None
    return int(match[2]) // per_year


def age_bin(age: str | None, *, birth_date: str | None, study_date: str | None) -> str | None:
    """Return the decade of a patient's age as text, such as "40-49".

    Args:
        age: Patient Age (0010,1010), such as "045Y", "18M", "3W" or "10D", or as people write it.
        birth_date: Patient's Birth Date (0010,0030), YYYYMMDD; used with `study_date` where `age`
            has no meaning or is 130 years or more.
        study_date: Study Date (0008,0020), YYYYMMDD.

    Returns:
        "0-9", "10-19" and so on, and "90+"; None where neither age nor dates give an age below
        130 years.
    """
    candidates = (years_of_age(age or ""), _years_between(birth_date, study_date))
    years = next((years for years in candidates if years is not None and 0 <= years < 130), None)
    if years is None:
        return None
    decade = years // 10 * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def _years_between(birth_date: str | None, study_date: str | None) -> int | None:
    dates = [(date or "").replace(".", "") for date in (birth_date, study_date)]
    if not all(len(date) == 8 and date.isascii() and date.isdigit() for date in dates):
        return None
    birth, study = (int(date) for date in dates)
    # Month and day as a number are below 10000: a birthday still to come takes a year off.
    return (study - birth) // 10_000 if study >= birth else None

"""Patient Age (0010,1010) as people write it."""

import re

from cxrbatch.reading.spelling import plain_capitals

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

"""What names in labels mean: which column is what, and which class of the model a text is.

Names of columns are compared without case, accents, spaces and punctuation, see `plain_name`. The
usual names are English, German, French, Spanish, Italian and Portuguese.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cxrbatch.errors import LabelError
from cxrbatch.files import shown

SPLITS = ("train", "val", "test")

JOINS = {
    "path": "path",
    "name": "path",
    "sop": "sop_instance_uid",
    "image_hash": "image_hash",
    "series": "series_instance_uid",
    "study": "study_instance_uid",
    "accession": "accession_key",
}
"""What may join labels with images -> its column in labels and tables; the preferred ones first."""

KEYS = tuple(dict.fromkeys(JOINS.values()))
"""Columns of labels that may name images, once they are read."""

ACCESSION_NUMBER = "accession_number"
"""A column of files of labels, which is replaced by `accession_key` while it is read."""
_USUAL = {
    "path": "path file filename filepath filelocation relativepath fullpath image imagefile "
    "imagefilename imagename imagepath imageindex img imgname imgpath imgfile dicom dicomfile "
    "dicompath dicomfilename dcm dcmfile picture uri datei dateiname dateipfad pfad bild bilddatei "
    "bildname bildpfad bildpfade aufnahme fichier nomfichier nomdufichier nomdefichier chemin "
    "cheminfichier chemindufichier archivo nombrearchivo nombredearchivo nombredelarchivo fichero "
    "ruta rutaarchivo rutadelarchivo imagen nombreimagen nomefile percorso percorsofile immagine "
    "nomeimmagine arquivo nomearquivo nomedoarquivo caminho caminhodoarquivo imagem nomeimagem "
    "ficheiro nomedoficheiro",
    "sop_instance_uid": "sopinstanceuid sopuid sopinstance sop instanceuid imageuid bilduid "
    "sopinstanzuid uidsop uidimage uidimagen",
    "image_hash": "imagehash",
    "series_instance_uid": "seriesinstanceuid seriesuid serienuid seriesinstanzuid "
    "serieninstanzuid serieuid uidserie uidseries",
    "study_instance_uid": "studyinstanceuid studyuid studienuid studieninstanzuid "
    "studyinstanzuid untersuchungsuid estudiouid uidetude uidestudio uidstudio uidestudo",
    "accession_key": "accessionkey",
    ACCESSION_NUMBER: "accessionnumber accession accessionno accessionnr accessionid "
    "accnumber accno accnr acc zugangsnummer zugangsnr auftragsnummer auftragsnr auftrag "
    "anforderungsnummer anforderungsnr untersuchungsnummer numeroaccession numerodaccession "
    "numeroacces numerodacces numeroaccesion numeroacceso numerodeacceso numerodeaccesion "
    "numeroaccesso numerodiaccesso numeroaccessione numeroacesso numerodeacesso",
    "label": "label labels labelname classlabel class classname classe clase klasse klassenname "
    "category kategorie categorie categoria diagnosis diagnose diagnostic diagnostico diagnosi "
    "finding findings findinglabel findinglabels befund befunde hallazgo hallazgos achado achados "
    "reperto reperti referto etiqueta etiquette etichetta rotulo target truth groundtruth "
    "pathology pathologie patologia disease krankheit enfermedad maladie malattia doenca constat",
    "patient": "patient patientid patientsid patientno patientnr patientnumber patientkey pid "
    "patid patnr mrn medicalrecordnumber subject subjectid subjectno person personid "
    "patientennummer patientennr patientenid patientin numeropatient numerodupatient idpatient "
    "idpaciente paciente pacienteid numeropaciente numerodepaciente numerodelpaciente nhc "
    "numerodopaciente paziente idpaziente pazienteid numeropaziente codicepaziente",
    "split": "split partition set subset datasplit aufteilung teilmenge particion "
    "partizione particao",
    "source": "source collection dataset quelle herkunft sammlung origine fuente origen fonte "
    "origem",
}
_ROLES = {word: role for role, words in _USUAL.items() for word in words.split()}

_OPTION = {"label": "--label-column", "path": "--path-column", "patient": "--patient-column"}
_MEANINGS = {
    "Normal": "normal normale normales normali normais normalbefund normalerbefund healthy gesund "
    "sano sana sain saine sani saudavel nofinding nofindings noabnormality nopathology "
    "keinbefund keinebefunde ohnebefund unauffallig unauffaellig unauffalligerbefund regelrecht "
    "ob sansparticularite sansanomalie riendesignaler sinhallazgos sinhallazgo sinalteraciones "
    "nessunreperto nellanorma semachados semalteracoes nad nilacute",
    "COVID-19": "covid covid19 covid19pneumonia covidpneumonia covid19pneumonie covidpneumonie "
    "pneumoniacovid19 pneumoniecovid19 neumoniacovid19 neumoniaporcovid19 polmonitecovid19 "
    "polmonitedacovid19 sarscov2 sarscov2pneumonia sarscov2pneumonie sarscov2infection "
    "sarscov2infektion ncov 2019ncov ncov2019 corona coronavirus",
    "Viral Pneumonia": "viralpneumonia pneumoniaviral viruspneumonie viralepneumonie "
    "pneumonievirale neumoniaviral neumoniavirica polmonitevirale viralpneumonie "
    "pneumoniavirica",
    "Lung Opacity": "lungopacity lungopacities opacity opacities pulmonaryopacity "
    "pulmonaryopacities verschattung verschattungen lungenverschattung pulmonaleverschattung "
    "opacite opacites opacitepulmonaire opacidad opacidades opacidadpulmonar opacita "
    "opacitapolmonare opacidade opacidades opacidadepulmonar",
}
_MEANING = {word: meaning for meaning, words in _MEANINGS.items() for word in words.split()}


def plain_name(name: str) -> str:
    """Return the letters and digits of a name, without case and accents.

    "Patienten-ID" becomes "patientenid"; letters and digits of all scripts are kept.
    """
    return "".join(c for c in without_accents(name).casefold() if c.isalnum())


def without_accents(name: str) -> str:
    """Return a name in Unicode's form NFKC, without the combining accents U+0300 to U+036F."""
    apart = unicodedata.normalize("NFKD", name)
    plain = "".join(c for c in apart if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFKC", plain)


_DASHES = "\u2010-\u2015\u2212-"
# The end of a text such as "COVID-", "COVID (+)" or "COVID negative": group 1 where it is a plus.
_SIGN = re.compile(
    rf"[\s_(\[:,={_DASHES}]*(?:(\++|pos(?:iti(?:v[aeo]?|f))?)"
    rf"|[{_DASHES}]+|neg(?:ati(?:v[aeo]?|f))?)[\s.)\]]*$"
)
# Signs that change what a word means, such as "?", "~" and "+", and a minus in front.
_ANOTHER_WORD = re.compile(rf"^[\s(\[]*[{_DASHES}]|[^\w\s.,:;()\[\]'\"/\\{_DASHES}]")


def meaning_of(name: str) -> str | None:
    """Return what a usual word for a finding means, such as "Normal" for "kein Befund".

    A plus sign or "positive" behind the word changes nothing. A minus sign or "negative" behind it,
    a minus in front, and signs such as "?" and "~" anywhere make it another word.

    Returns:
        "Normal", "COVID-19", "Viral Pneumonia" or "Lung Opacity"; None for any other word.
    """
    word, is_affirmed = _without_sign(name)
    is_word = is_affirmed and not _ANOTHER_WORD.search(word)
    return _MEANING.get(plain_name(word)) if is_word else None


def _without_sign(name: str) -> tuple[str, bool]:
    """Take "+", "positive", "-" or "negative" off the end; the bool is False for the last two."""
    word = without_accents(name).casefold()
    sign = _SIGN.search(word)
    return (word, True) if sign is None else (word[: sign.start()], sign[1] is not None)


def class_of_meaning(classes: Sequence[str]) -> dict[str, int]:
    """Map each meaning (see `meaning_of`) that exactly one class has to the index of the class."""
    meanings = [meaning_of(name) for name in classes]
    return {
        meaning: meanings.index(meaning)
        for meaning in meanings
        if meaning is not None and meanings.count(meaning) == 1
    }


_MOST_NAMED, _MOST_FLAGS = 12, 64
# What a name of a column does not hold, and a path, an id, a date or a person's name may.
_NO_NAME = frozenset("0123456789/\\.^@")


@dataclass(frozen=True, slots=True)
class WantedColumns:
    """The columns that a user asked for.

    Attributes:
        by: A key of `JOINS`, whose column alone names the images; None to read all of `KEYS`.
        named: Role ("label", "patient", a key of images) -> name of the column in the file.
        classes: Class names of the model, which columns of flags are named by; empty if unknown.
    """

    by: str | None
    named: Mapping[str, str]
    classes: Sequence[str] = ()

    def count_in(self, names: Sequence[str]) -> int:
        """Return how many of the texts `names` are usual names of columns, or were asked for."""
        asked = {plain_name(name) for name in self.named.values()}
        return sum(name in _ROLES or name in asked for name in map(plain_name, names) if name)


@dataclass(frozen=True, slots=True)
class ChosenColumns:
    """Which columns of a file of labels are read.

    Attributes:
        places: Role -> position in the header, from 0. Roles are `KEYS`, `ACCESSION_NUMBER`, label,
            patient, split and source.
        flags: Class name -> position of a column that may say for each row whether it is of this
            class. If there is a column label, they count in rows where it is empty.
        are_classes: Whether the columns of flags are named like classes; if not, `flags` is empty
            or has all columns that have a name and no other role.
    """

    places: Mapping[str, int]
    flags: Mapping[str, int]
    are_classes: bool

    @property
    def all_places(self) -> tuple[int, ...]:
        """Positions of all columns to read, each once."""
        return tuple(dict.fromkeys((*self.places.values(), *self.flags.values())))


def choose_columns(header: Sequence[str], wanted: WantedColumns, file: str) -> ChosenColumns:
    """Choose the columns to read by their names.

    A column whose name is asked for comes first, then one that is named as the role is, then one
    of a usual name.

    Args:
        header: Names of the columns.
        wanted: What the user asked for.
        file: The file and its form, for messages.

    Raises:
        LabelError: A column that was asked for is missing, no column names the images, none and no
            flags name the class, or two columns may have one role.
    """
    where = f"{file} with {describe_header(header, wanted)}"
    places = {
        role: _named_by_user(header, role, name, where) for role, name in wanted.named.items()
    }
    keys = KEYS if wanted.by is None else (JOINS[wanted.by],)
    keys += (ACCESSION_NUMBER,) if "accession_key" in keys else ()
    for role in (*keys, "label", "patient", "split", "source"):
        if role not in places:
            place = _usual_place(header, role, where, taken=set(places.values()))
            places |= {} if place is None else {role: place}
    if not any(role in places for role in keys):
        what = "the images" if wanted.by is None else f"the images by {wanted.by}"
        raise LabelError(f"{where}: no column names {what}; name one with --path-column")
    places = {role: place for role, place in places.items() if role in keys or role not in KEYS}
    if "accession_key" in places:
        places.pop("accession_key" if ACCESSION_NUMBER in wanted.named else ACCESSION_NUMBER, None)
    flags, are_classes = _flag_columns(header, wanted, set(places.values()))
    are_distinct = len({name for name, _ in flags}) == len(flags) > 1
    if "label" in places and not (are_distinct and are_classes and "label" not in wanted.named):
        return ChosenColumns(places, {}, are_classes=False)
    if not are_distinct:
        raise LabelError(f"{where}: no column names the class; name one with --label-column")
    return ChosenColumns(places, dict(flags), are_classes)


def describe_header(header: Sequence[str], wanted: WantedColumns) -> str:
    """Return the names of a file's columns, up to 12, for a message.

    It is only their number if the row may be data: no name is known and they are not single words
    of letters, or one is known and another has a sign such as a digit or slash ("…" where two are
    known), or just one is a class.
    """
    count = f"{len(header)} columns" if len(header) != 1 else "1 column"
    words = [name for name in header if meaning_of(name) or name in wanted.classes]
    odd = {name for name in header if _NO_NAME.intersection(name) and not role_of(name)} - {*words}
    are_words = header and not words and all(n.replace("_", "").isalpha() for n in header)
    if (wanted.count_in(header) <= bool(odd) and not are_words) or len(words) == 1:
        return f"{count} and no known header" if header else "no columns"
    names = ["…" if name in odd else shown(name) for name in header[:_MOST_NAMED]]
    return f"{count}: {', '.join(names)}" + (" …" if header[_MOST_NAMED:] else "")


def _named_by_user(header: Sequence[str], role: str, name: str, where: str) -> int:
    exact = [place for place, own in enumerate(header) if own == name]
    places = exact or [p for p, own in enumerate(header) if plain_name(own) == plain_name(name)]
    if len(places) != 1:
        count = "no column" if not places else f"{len(places)} columns"
        raise LabelError(
            f"{where}: {count} {shown(name)}, which {_OPTION.get(role, _OPTION['path'])} names"
        )
    return places[0]


def _usual_place(header: Sequence[str], role: str, where: str, *, taken: set[int]) -> int | None:
    """The one column whose name says this role."""
    places = [p for p, own in enumerate(header) if p not in taken and role_of(own) == role]
    places = [p for p in places if plain_name(header[p]) == plain_name(role)] or places
    if len(places) > 1:
        names = " and ".join(shown(header[place]) for place in places[:2])
        is_named = role in _OPTION and header[places[0]] != header[places[1]]
        remedy = f"name one with {_OPTION[role]}" if is_named else "rename or remove one"
        raise LabelError(f"{where}: both {names} may be the column {role}; {remedy}")
    return places[0] if places else None


def role_of(column: str) -> str | None:
    """Return the role that the name of a column says, such as "path" for "Dateiname", or None."""
    return _ROLES.get(plain_name(column))


def _flag_columns(
    header: Sequence[str], wanted: WantedColumns, taken: set[int]
) -> tuple[list[tuple[str, int]], bool]:
    """The columns that are named like classes, or else all others; and whether it is the former."""
    free = [(name, p) for p, name in enumerate(header) if p not in taken and plain_name(name)]
    known = {plain_name(name) for name in wanted.classes}
    words = [plain_name(_without_sign(name)[0]) for name, _ in free]
    named = [column for column, w in zip(free, words, strict=True) if w in known or w in _MEANING]
    if len(named) > 1 or wanted.classes:
        return named, True
    return (free if len(free) <= _MOST_FLAGS else []), False


def find_classes(labels: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Map each label to the index of the class that it names, or to -1.

    A class of exactly this name comes first, then one whose `folded` name is equal: case, accents,
    spaces, hyphens and underscores are ignored, except where two classes differ by them alone. Last
    comes a class that is known by the same usual words: "kein Befund" is Normal. A plus sign or
    "positive" behind such a name changes nothing; with a minus or "negative" it names no class.

    Args:
        labels: Labels as written.
        classes: Class names of the model.

    Returns:
        Label -> index into `classes`, or -1 where it names none.
    """
    exact = {name: number for number, name in enumerate(classes)}
    alike, usual = folded_numbers(classes), class_of_meaning(classes)
    found = {}
    for label in labels:
        number = exact.get(label, alike.get(folded(label)))
        if number is None:
            word, is_affirmed = _without_sign(label)
            number = alike.get(folded(word), -1) if is_affirmed else -1
            number = usual.get(meaning_of(label) or "", -1) if number < 0 else number
        found[label] = number
    return found


def folded_numbers(classes: Sequence[str]) -> dict[str, int]:
    """Map the folded name (see `folded`) of each class to the index of the class in `classes`.

    A folded name that two classes share maps to -1.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(classes):
        numbers[folded(name)] = -1 if folded(name) in numbers else number
    return numbers


def folded(name: str) -> str:
    """Return a form of `name` that is equal for names that differ in case or separators alone.

    Spaces, hyphens, dashes and underscores inside the name are separators, and are removed; between
    two digits they become one space: "stage 1-1" is not "stage 11". Accents are removed. Unicode
    compatibility forms (NFKC) count as equal.
    """
    plain = without_accents(name).casefold().replace("_", " ").strip()
    parts = [part for part in re.split(r"(?<=\w)[\s_\u2010-\u2015-]+(?=\w)", plain) if part]
    folded = ""
    for part in parts:
        between_digits = folded[-1:].isdigit() and part[0].isdigit()
        folded += f" {part}" if between_digits else part
    return folded

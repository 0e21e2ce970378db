"""Words and codes for modalities, body parts and views, in many languages, and what they mean.

Words are in plain capitals: without accents, in the plain forms of their letters.

Modality (0008,0060) says how an image was acquired, the SOP class how it is stored, and the two
need not bear the same name (PS3.3 C.7.3.1.1.1, note 3): mammograms lie in objects of Computed
Radiography. So a defined term of Modality decides whether an image is a radiograph. A value that is
no such term, or that means "other", is taken as a slip: there the SOP class decides, and after it
a list of spellings.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from pydicom.uid import UID

from cxrbatch.reading.dicom.header import DicomHeader
from cxrbatch.reading.dicom.values import decodings, describe_unknown, text
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.readings import RADIOGRAPH_MODALITIES, plain_capitals

# Defined terms of Modality (0008,0060), retired ones too (PS3.3 C.7.3.1.1.1).
_MODALITIES = """
ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD
IO IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN
POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT SEG SM
SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS
OPR ST VF
"""
# What is written for CR, DX or RG, without blanks and punctuation.
_SPELLINGS = """
DR XR XRAY XRAYS RX RTG CXR DXR DDR CHESTXRAY DIGITALXRAY PLAINXRAY XRAYIMAGE RAD RADIOGRAPH
RADIOGRAPHY RADIOGRAPHIE RADIOGRAFIA DIGITALRADIOGRAPHY COMPUTEDRADIOGRAPHY RONTGEN ROENTGEN
"""
# Parts of words that name the chest wherever they occur, as in CHESTABDOMEN or HEMITHORAX: regular
# expressions, of which (?!...) excludes a vertebra, a breastbone or the spine.
_CHEST_STEMS = """
CHEST|THORAX|TH?ORAKS|TORAX|TORACE|LUNG|PULM|POUMON|POLMON|POITRINE|PECHO|PEITO|PETTO|PIEPT|PLAMAN
COSTILLA|COSTELA|RIPPE|BRUST(?!WIRBEL|BEIN|WARZE|DRUSE)|BORST(?!WERVEL|BEEN|KLIER)|BORSKAS|MELLKAS
BROST(?!RYGG|KOT|BEN|VERT)|BRYST(?!H?VIRV|RYG|COL|BEN|KIRT)|BRJOST(?!HRYGG|BEIN)
RINTA(?!RAN|NIK|LAST)|KEUHKO|RINDKE|KOPSU|KRUTIN|PLAUCI|PLAUS|KLATK|KL PIERS|PLUC|PLJUC|HRUDNIK
PRSNI KOS|GRUDNI KOS|GOGUS|AKCIGER|AGCIYER|QEFES|NGUC|DIBDIB|KRAHAROR|MUSHKER
THORACIC (?:CAGE|CAVITY|WALL)
(?:CAGE|CAJA|CAIXA|GABBIA|CUTIE|CAVIT[AE]|CAVIDADE?|PARED|PAROI|PARETE) TH?ORACI|КЛЕТК|КЛIТК|КЛІТК
ЛЕГК|ЛЕГЕН|ТОРАКС|ФЛЮОРО|БЕЛИ ДРОБ|ПЛУЋА|КЕУДЕ|ГР[УЪА]Д[ЕН]+И? КОШ|ЦЭЭЖ|ӨКПЕ|ΘΩΡΑΚ(?!ΙΚ)|ΘΩΡΑΞ
ΣΤΗΘ|ΠΝΕΥΜΟΝ|חזה|ריאות|ריאה|صدر(?!ي)|(?<!د)رئة|(?<!د)رئت|سینه|سينه|ریه|سینہ|چھاتی|छाती|सीना|वक्ष
फेफड|বুক|বক্ষ|மார்பு|ఛాతి|ఛాతీ|ทรวงอก|หน้าอก|ปอด|გულმკერდ|ԿՐԾՔ|ԿՈՒՐԾՔ|胸(?![椎骨腰髄髓])|肺|肋
キョウブ|ムネ|きょうぶ|むね|흉부|흉곽|가슴|폐
"""
# Words that name the chest where they stand alone.
_CHEST_WORDS = """
RIB RIBS CXR PCXR CHST CHX THX THOR THORACIS COTES COSTE COSTAE LONGEN LONGFOTO RIND TUDO PRSA
PRSI PRSNY GRUDI HRUD HRUDNA KRUTIS KRUSU DADA PARU KIFUA PLICE ZEBRA REBRA KLP PHOI ОГК ОГП ГРУДЬ
ГРУДИ ГЪРДИ РЕБРА
"""
# PS3.16 annex L, "Body Part Examined", and words that are written beside its terms.
_BODY_PARTS = """
ABDOMEN ABDOMINAL ABDPELVIS ABDPELV ACETABULUM ADRENAL AIRWAY ANKLE ANUS AORTA AORTIC ARCH
APPENDIX ARM ARTERY ATLAS AXIAL AXILLA BACK BILE BLADDER BODY BONE BONES BRAIN BREAST BREASTS
BRONCHUS BUTTOCK CALCANEUS CALF CARDIAC CAROTID CARPUS CAVITY CEREBELLUM CERVICAL CERVIX CHEEK
CLAVICLE CLAVICLES COCCYX COLON CORNEA CORONARY CSPINE CTSPINE DORSAL DUODENUM EAR ELBOW ELBOWS
ENTIRE ESOPHAGUS EXTREMITY EYE EYELID FACE FACIAL FEMUR FIBULA FINGER FINGERS FOOT FEET FOREARM
FOREFOOT GALLBLADDER GENITALIA HAND HANDS HEAD HEART HEEL HIP HIPS HUMERUS IAC ILEUM ILIUM
INTESTINE JAW JEJUNUM JOINT JOINTS KIDNEY KIDNEYS KNEE KNEES KUB LARYNX LEG LEGS LIVER LOWERLEG
LSPINE LSSPINE LUMBAR LUNG LUNGS MANDIBLE MASTOID MAXILLA MEDIASTINUM METACARPUS METATARSUS MOUTH
NASAL NASOPHARYNX NECK NOSE ORBIT ORBITS OVARY PALATE PANCREAS PAROTID PATELLA PELVIC PELVIS PENIS
PERINEUM PHARYNX PROSTATE PULMONARY RADIUS RECTUM RENAL SACRUM SCALP SCAPULA SCLERA SCROTUM
SHOULDER SHOULDERS SINUS SINUSES SKELETON SKULL SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR
TARSUS TEETH TEMPORAL TESTIS THIGH THORACIC THUMB THYMUS THYROID TIBIA TLSPINE TMJ TOE TOES TONGUE
TOOTH TRACHEA TRUNK TSPINE ULNA UPPERARM URETER URETHRA UTERUS VAGINA VERTEBRA VULVA WHOLE
WHOLEBODY WRIST WRISTS ZYGOMA CHEST THORAX TORAX TORAKS TORACE THORAKS HEMITHORAX BRUST BRUSTKORB
BRUSTRAUM LUNGE LUNGEN RIPPEN POUMON POUMONS POITRINE THORACIQUE CAGE PECHO PULMON PULMONES
COSTILLAS TORACICA CAJA CAIXA GABBIA PEITO PULMAO PULMOES COSTELAS PETTO POLMONE POLMONI BORST
BORSTKAS BROST BROSTKORG LUNGOR BRYST BRYSTKASSE LUNGER RINTA RINTAKEHA KEUHKOT KLATKA PIERSIOWA
PIERSIOWEJ KLATKI PLUCA HRUDNIK PLICE PRSNI GRUDNI KOS MELLKAS PIEPT PLAMANI GOGUS KAFESI AKCIGER
NGUC DADA PARU ГРУДНАЯ ГРУДНОЙ ГРУДНА ГРУДНОЇ КЛЕТКА КЛЕТКИ КЛІТКА КЛІТКИ ОРГАНЫ ОРГАНИ ЛЕГКИЕ
ЛЕГЕНІ ТОРАКС ГРЪДЕН ГРАДЕН КОШ ΘΩΡΑΚΑΣ ΘΩΡΑΚΟΣ ΘΩΡΑΞ ΣΤΗΘΟΣ ΠΝΕΥΜΟΝΕΣ חזה בית صدر الصدر رئة
الرئتين قفسه سینه سينه 胸 胸部 胸片 胸廓 胸腔 正面 側面 正位 侧位 正侧位 立位 臥位 肺 肺部 両肺
双肺 肋骨 キョウブ ムネ 흉부 흉곽 가슴 폐 BECKEN KNIE SCHULTER HUFTE FUSS HANDGELENK ELLENBOGEN
SCHADEL HALS WIRBELSAULE HWS BWS LWS BAUCH BASSIN GENOU EPAULE HANCHE PIED MAIN COUDE CRANE RACHIS
RODILLA HOMBRO CADERA PIE MANO CODO CRANEO COLUMNA PELVE JOELHO OMBRO QUADRIL GINOCCHIO SPALLA
ANCA PIEDE COLONNA BACINO AND OF TO THE WITH VIEW VIEWS SINGLE PORTABLE BEDSIDE MOBILE UPRIGHT
ERECT SUPINE STANDING SITTING UPPER LOWER LEFT RIGHT LT RT BILATERAL BOTH AP PA LAT LATERAL LL RL
OBLIQUE FRONTAL PEDIATRIC ADULT CHILD INFANT ROUTINE SCREENING XRAY RX OTHER UNKNOWN UNSPECIFIED
NONE NA XX L R
"""
# Words of View Position (PS3.3 C.8.1.1) for a lateral view, and for others. A decubitus view (LLD,
# RLD) is frontal, of a patient who lies on one side.
_LATERAL = "LL RL LAT LATERAL LLAT RLAT PROFIL PERFIL"
_OTHER_VIEW = "AP PA LLD RLD LLO RLO DECUBITUS DECUB"
# What else a view is called, by position, side and device.
_VIEW_DETAILS = """
ANTERIOR ANTERO ANTEROPOSTERIOR APICAL AXIAL B BEDSIDE CC CROSS ERECT FRONTAL INFERIOR L LAO LEFT
LM LORDOTIC LPO LT ML MLO MOBILE OBL OBLIQUE PORTABLE POSTERIOR POSTERO POSTEROANTERIOR PRONE R
RAO RIGHT RPO RT SEMI SEMIERECT SITTING STANDING SUPERIOR SUPINE SWIMMERS TABLE TANGENTIAL UNKNOWN
UPRIGHT VIEW X XTABLE XX
"""
# PS3.16 CID 4010 "DX View": lateral; left, right; lateral-medial, medial-lateral; sagittal. Each
# concept has its SCT number and its older SRT code, both of SNOMED, here and below.
_LATERAL_CODES = """
399067008 399173006 399198007 399352003 399260004 30730003
R-102CD R-10236 R-10232 R-10228 R-10224 G-A145
"""
# Of the same: frontal; antero-posterior; postero-anterior.
_FRONTAL_CODES = "399033003 399348003 272479007 R-10202 R-10206 R-40888"
# PS3.16 CID 4031 "Common Anatomic Region" and its forerunners: chest; thorax; lung.
_CHEST_CODES = "816094009 51185008 T-D3000 39607008 T-28000"
# Values of Body Part Examined that name no body part.
_UNSPECIFIED = "UNKNOWN UNSPECIFIED NONE NA XX"

LATERAL_VIEWS, OTHER_VIEWS = frozenset(_LATERAL.split()), frozenset(_OTHER_VIEW.split())
VIEWS = LATERAL_VIEWS.union(OTHER_VIEWS, _VIEW_DETAILS.split())
LATERAL_CODES, FRONTAL_CODES = (frozenset(c.split()) for c in (_LATERAL_CODES, _FRONTAL_CODES))
CHEST_CODES = frozenset(_CHEST_CODES.split())
UNSPECIFIED = frozenset(("", *_UNSPECIFIED.split()))

_TERMS = frozenset(_MODALITIES.split())
_RADIOGRAPHS = RADIOGRAPH_MODALITIES.union(_SPELLINGS.split())
_OTHER = "OT"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Computed Radiography; Digital X-Ray for presentation and for processing (PS3.6 annex A).
DX_CLASSES = (f"{_STORAGE}1.1", f"{_STORAGE}1.1.1")
_XRAY_CLASSES = (f"{_STORAGE}1", *DX_CLASSES)
# Prefix of all classes of scans and screenshots, each with a dot behind it.
SECONDARY_CAPTURE = f"{_STORAGE}7."
_RADIOTHERAPY = "RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT"
# Objects without an image to score: prefix of their SOP classes (PS3.6 annex A), and values of
# Modality for files whose SOP class is missing (PS3.3 C.7.3.1.1.1).
_OBJECTS = (
    ("1.2.840.10008.1.3.10", "", Outcome.DICOMDIR, "a DICOMDIR"),
    (f"{_STORAGE}88", "SR KO", Outcome.STRUCTURED_REPORT, "a structured report"),
    (f"{_STORAGE}104", "DOC", Outcome.ENCAPSULATED_DOCUMENT, "an encapsulated document"),
    (f"{_STORAGE}481", _RADIOTHERAPY, Outcome.RADIOTHERAPY_OBJECT, "a radiotherapy object"),
    (f"{_STORAGE}11", "PR", Outcome.PRESENTATION_STATE, "a presentation state"),
    (f"{_STORAGE}9", "ECG EPS HD", Outcome.WAVEFORM, "a waveform"),
)
_DIRECTORY_RECORDS = 0x00041220
_MODALITY = 0x00080060

_WORD = re.compile(r"[^\W\d_]+|\d+")
_SEPARATORS = re.compile(r"[\s!-/:-@\[-`{-~]+")


@dataclass(frozen=True, slots=True)
class ModalityCheck:
    """What `check_modality` found out about an object.

    Attributes:
        code: Defined term, accepted value or known spelling, in capitals; several are joined by
            slashes; None where there is none.
        is_missing: Whether Modality is absent or empty.
        exclusion: Why the object is not scored, or None.
        deviation: How Modality breaks the standard; empty where it does not. It quotes no words
            but those known here or accepted.
    """

    code: str | None
    is_missing: bool = False
    exclusion: ReadingError | None = None
    deviation: str = ""


def check_modality(header: DicomHeader, accepted: frozenset[str]) -> ModalityCheck:
    """Decide by Modality and SOP class whether an object is a radiograph to be scored.

    An object that is known as no plain image, such as a report, is excluded first. Else a Modality
    that is accepted, or another term of the standard, decides. If Modality is no term or "OT", the
    SOP class and a list of spellings, such as "XRAY", decide. If it is absent, only the SOP class
    of another kind of image excludes.

    Args:
        header: Of any DICOM object, also of one without an image.
        accepted: Values of Modality that are scored, in capitals.

    Returns:
        The modality, and why the object is excluded or how its Modality breaks the standard.
    """
    check = _check_modality(header, accepted)
    return replace(check, exclusion=_excluded_object(header) or check.exclusion)


def _check_modality(header: DicomHeader, accepted: frozenset[str]) -> ModalityCheck:
    written = next(decodings(header.dataset, _MODALITY), "")
    sop_class = header.sop_class or ""
    if not written:
        is_foreign = header.pixels is not None and _is_foreign(sop_class)
        exclusion = _not_a_radiograph("no modality", sop_class) if is_foreign else None
        return ModalityCheck(None, is_missing=True, exclusion=exclusion)
    code = written.upper()
    if code not in accepted and (code not in _TERMS or code == _OTHER):
        return _check_slip(written, sop_class)
    if code not in accepted:
        return ModalityCheck(code, exclusion=_not_a_radiograph(f"modality {code}"))
    deviation = ""
    if code not in _TERMS:
        deviation = f"modality {code} is no term of the standard"
    elif written != code:
        deviation = f"modality {code} is not written in capitals"
    elif code in RADIOGRAPH_MODALITIES and _contradicts(code, sop_class):
        deviation = f"modality {code} does not fit the SOP class {UID(sop_class).name}"
    return ModalityCheck(code, deviation=deviation)


def _check_slip(written: str, sop_class: str) -> ModalityCheck:
    """Check a Modality that is no term, or "other": the SOP class decides, then the spelling."""
    parts = re.findall("[A-Z0-9]+", plain_capitals(written))
    code, is_radiograph = None, False
    if "".join(parts) in _RADIOGRAPHS:
        code, is_radiograph = "".join(parts), True
    elif parts and all(part in _RADIOGRAPHS | _TERMS for part in parts):
        code, is_radiograph = "/".join(parts), _RADIOGRAPHS.issuperset(parts)
    shown = f"modality {code}" if code else describe_unknown("modality", written)
    if code is not None and not is_radiograph and code != _OTHER:
        return ModalityCheck(code, exclusion=_not_a_radiograph(shown))
    is_foreign = _is_foreign(sop_class)
    if sop_class in _XRAY_CLASSES or (is_radiograph and not is_foreign):
        problem = "does not fit the SOP class" if code == _OTHER else "is no term of the standard"
        return ModalityCheck(code, deviation=f"{shown} {problem}" if code else shown)
    return ModalityCheck(code, exclusion=_not_a_radiograph(shown, sop_class if is_foreign else ""))


def _contradicts(code: str, sop_class: str) -> bool:
    """Whether radiographs of this modality are stored in other SOP classes.

    The Digital X-Ray objects enumerate their modalities, DX among them (PS3.3 C.8.11.1).
    """
    return code != "DX" if sop_class in DX_CLASSES else _is_foreign(sop_class)


def _not_a_radiograph(shown: str, sop_class: str = "") -> ReadingError:
    detail = f"{shown}, an object of {UID(sop_class).name}" if sop_class else shown
    return ReadingError(Outcome.NOT_A_RADIOGRAPH, detail)


def _is_foreign(sop_class: str) -> bool:
    """Whether this is a storage class of the standard for something else than radiographs.

    Secondary Capture takes images of all kinds.
    """
    if sop_class in _XRAY_CLASSES or not sop_class.startswith(_STORAGE):
        return False
    is_capture = f"{sop_class}.".startswith(SECONDARY_CAPTURE)
    return not is_capture and UID(sop_class).name != sop_class


def _excluded_object(header: DicomHeader) -> ReadingError | None:
    """Why an object that is no plain image is excluded, None for images."""
    sop_class = header.sop_class or ""
    for prefix, _, outcome, name in _OBJECTS:
        if f"{sop_class}.".startswith(f"{prefix}."):
            return ReadingError(outcome, name)
    if _DIRECTORY_RECORDS in header.dataset:
        return ReadingError(Outcome.DICOMDIR, "a DICOMDIR")
    modality = text(header.dataset, _MODALITY) or ""
    for _, modalities, outcome, _ in _OBJECTS:
        # Images of radiotherapy are stored in classes of other images too.
        is_decisive = not sop_class or outcome is Outcome.RADIOTHERAPY_OBJECT
        if is_decisive and modality in modalities.split():
            meaning = outcome.meaning
            return ReadingError(outcome, meaning[0].lower() + meaning[1:].rstrip("."))
    return None


def names_chest(body_part: str) -> bool:
    """Whether a text, such as Body Part Examined, names the chest, lungs or ribs.

    Accents and the case of letters do not count; words of many languages are known.
    """
    plain = _SEPARATORS.sub(" ", plain_capitals(body_part))
    return bool(_chest_stems().search(plain)) or not _chest_words().isdisjoint(plain.split())


def is_body_part(body_part: str) -> bool:
    """Whether a text consists of words for body parts and views alone, so that it names no person.

    Up to four known words may be joined, as in CHESTABDOMEN, and each number has one digit. A text
    of single Latin letters and digits alone does not count.
    """
    parts = _WORD.findall(plain_capitals(body_part))
    is_named = any(len(part) > 1 or not part.isascii() for part in parts)
    return is_named and all(_body_part_word().fullmatch(part) for part in parts)


# Compiled when first needed: most archives need none of them, and they take a while.
@lru_cache(maxsize=1)
def _chest_stems() -> re.Pattern[str]:
    return re.compile("|".join(plain_capitals(_CHEST_STEMS).split("\n")[1:-1]))


@lru_cache(maxsize=1)
def _chest_words() -> frozenset[str]:
    return frozenset(plain_capitals(_CHEST_WORDS).split())


@lru_cache(maxsize=1)
def _body_part_word() -> re.Pattern[str]:
    terms = "|".join(sorted({*plain_capitals(_BODY_PARTS).split(), *_chest_words()} - {"L", "R"}))
    return re.compile(rf"(?:{terms}){{1,4}}|[LR]|\d")

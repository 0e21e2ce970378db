"""What was examined and from which side, as far as a header tells.

A plain attribute says it best, a code sequence second; what neither knows, the Patient Orientation
may show. Codes are SNOMED's, each as the SCT number and as the older SRT code of the same concept.
"""

import re
from functools import lru_cache

from pydicom.dataset import Dataset

from cxrbatch.reading.dicom.elements import decodings, first_item, text
from cxrbatch.reading.facts import plain_capitals

# Parts of words that name the chest wherever they occur, as in CHESTABDOMEN or HEMITHORAX; what
# follows in (?!...) makes a vertebra, a breastbone or the spine of it.
_CHEST_STEMS = (
    *("CHEST", "THORAX", "TH?ORAKS", "TORAX", "TORACE", "LUNG", "PULM", "POUMON", "POLMON"),
    *("POITRINE", "PECHO", "PEITO", "PETTO", "PIEPT", "PLAMAN", "COSTILLA", "COSTELA", "RIPPE"),
    *("BRUST(?!WIRBEL|BEIN|WARZE|DRUSE)", "BORST(?!WERVEL|BEEN|KLIER)", "BORSKAS", "MELLKAS"),
    *("BROST(?!RYGG|KOT|BEN|VERT)", "BRYST(?!H?VIRV|RYG|COL|BEN|KIRT)", "BRJOST(?!HRYGG|BEIN)"),
    *("RINTA(?!RAN|NIK|LAST)", "KEUHKO", "RINDKE", "KOPSU", "KRUTIN", "PLAUCI", "PLAUS"),
    *(
        "KLATK",
        "KL PIERS",
        "PLUC",
        "PLJUC",
        "HRUDNIK",
        "PRSNI KOS",
        "GRUDNI KOS",
        "GOGUS",
        "AKCIGER",
        "AGCIYER",
    ),
    *("QEFES", "NGUC", "DIBDIB", "KRAHAROR", "MUSHKER", "THORACIC (?:CAGE|CAVITY|WALL)"),
    *("(?:CAGE|CAJA|CAIXA|GABBIA|CUTIE|CAVIT[AE]|CAVIDADE?|PARED|PAROI|PARETE) TH?ORACI",),
    *(
        "КЛЕТК",
        "КЛIТК",
        "КЛІТК",
        "ЛЕГК",
        "ЛЕГЕН",
        "ТОРАКС",
        "ФЛЮОРО",
        "БЕЛИ ДРОБ",
        "ПЛУЋА",
        "КЕУДЕ",
    ),
    *("ГР[УЪА]Д[ЕН]+И? КОШ", "ЦЭЭЖ", "ӨКПЕ", "ΘΩΡΑΚ(?!ΙΚ)", "ΘΩΡΑΞ", "ΣΤΗΘ", "ΠΝΕΥΜΟΝ"),
    *(
        "חזה",
        "ריאות",
        "ריאה",
        "صدر(?!ي)",
        "(?<!د)رئة",
        "(?<!د)رئت",
        "سینه",
        "سينه",
        "ریه",
        "سینہ",
        "چھاتی",
    ),
    *("छाती", "सीना", "वक्ष", "फेफड", "বুক", "বক্ষ", "மார்பு", "ఛాతి", "ఛాతీ", "ทรวงอก", "หน้าอก", "ปอด"),
    *(
        "გულმკერდ",
        "ԿՐԾՔ",
        "ԿՈՒՐԾՔ",
        "胸(?![椎骨腰髄髓])",
        "肺",
        "肋",
        "キョウブ",
        "ムネ",
        "きょうぶ",
        "むね",
        "흉부",
        "흉곽",
    ),
    *("가슴", "폐"),
)
# Words that name it where they stand alone.
_CHEST_WORDS = (
    "RIB RIBS CXR PCXR CHST CHX THX THOR THORACIS COTES COSTE COSTAE LONGEN LONGFOTO RIND TUDO "
    "PRSA PRSI PRSNY GRUDI HRUD HRUDNA KRUTIS KRUSU DADA PARU KIFUA PLICE ZEBRA REBRA KLP PHOI "
    "ОГК ОГП ГРУДЬ ГРУДИ ГЪРДИ РЕБРА"
)
# PS3.16 annex L, "Body Part Examined", and what is written beside them.
_TERMS = """
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


# What most headers say, known without looking further.
_USUAL = frozenset({"CHEST", "THORAX"})
_WORD = re.compile(r"[^\W\d_]+|\d+")
_SEPARATORS = re.compile(r"[\s!-/:-@\[-`{-~]+")


def names_chest(body_part: str) -> bool:
    """Whether a text, in any of many languages, names the chest or what lies in it."""
    if body_part in _USUAL:
        return True
    plain = _SEPARATORS.sub(" ", plain_capitals(body_part))
    return bool(_chest_stems().search(plain)) or not _chest_words().isdisjoint(plain.split())


def is_body_part(body_part: str) -> bool:
    """Whether a text consists of words for body parts and views, so that it names nobody.

    Words may be joined, as in CHESTABDOMEN. A number has one digit.
    """
    if body_part in _USUAL:
        return True
    words = _WORD.findall(plain_capitals(body_part))
    is_named = any(len(word) > 1 or not word.isascii() for word in words)
    return is_named and all(_known_word().fullmatch(word) for word in words)


@lru_cache(maxsize=1)
def _chest_stems() -> re.Pattern[str]:
    return re.compile("|".join(map(plain_capitals, _CHEST_STEMS)))


@lru_cache(maxsize=1)
def _chest_words() -> frozenset[str]:
    return frozenset(plain_capitals(_CHEST_WORDS).split())


@lru_cache(maxsize=1)
def _known_word() -> re.Pattern[str]:
    terms = "|".join(sorted({*plain_capitals(_TERMS).split(), *_chest_words()} - {"L", "R"}))
    return re.compile(rf"(?:{terms}){{1,4}}|[LR]|\d")


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

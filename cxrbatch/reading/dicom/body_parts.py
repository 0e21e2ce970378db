"""Words for the chest in many languages, and those body parts that a table may name.

Body Part Examined (0018,0015) is typed by persons, in their language and script, and sometimes it
is not a body part that they type. So a table holds words that are known here and no others.
"""

import re
from functools import lru_cache

from cxrbatch.reading.spelling import plain_capitals

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

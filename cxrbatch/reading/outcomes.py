"""What can become of a file: a closed set of outcomes, each with its meaning and remedy.

An outcome says whether an image was scored and, if not, why. A flag says something about an image
that a reader of its score should know. Both are written to tables by their value, so a value is
never renamed.
"""

from enum import StrEnum


class Kind(StrEnum):
    """The three kinds of outcome: only `FAILED` means that something went wrong."""

    SCORED = "scored"
    EXCLUDED = "excluded"
    FAILED = "failed"


class _Described(StrEnum):
    """A code with one line of meaning."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "_Described":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class Outcome(StrEnum):
    """Why a file or frame has, or has not, a display image that may be scored."""

    kind: Kind
    meaning: str
    remedy: str

    def __new__(cls, value: str, kind: Kind, meaning: str, remedy: str) -> "Outcome":
        """Make a member that is its code and carries kind, meaning and remedy."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.kind = kind
        member.meaning = meaning
        member.remedy = remedy
        return member

    SCORED = (
        "scored",
        Kind.SCORED,
        "The image was read and may be scored.",
        "Nothing to do.",
    )
    NOT_AN_IMAGE = (
        "not_an_image",
        Kind.EXCLUDED,
        "The file is neither DICOM nor PNG nor JPEG, or it is empty.",
        "None needed; convert other image formats to DICOM or PNG to have them scored.",
    )
    NOT_A_RADIOGRAPH = (
        "not_a_radiograph",
        Kind.EXCLUDED,
        "A DICOM image of a modality that is not a projection radiograph.",
        "If the modality tag is wrong, widen the accepted modalities with --modality.",
    )
    DICOMDIR = (
        "dicomdir",
        Kind.EXCLUDED,
        "A DICOMDIR: an index of other files, without pixels of its own.",
        "None needed; the files that it lists are read where they lie.",
    )
    STRUCTURED_REPORT = (
        "structured_report",
        Kind.EXCLUDED,
        "A DICOM structured report or key object selection, without pixels.",
        "None needed.",
    )
    ENCAPSULATED_DOCUMENT = (
        "encapsulated_document",
        Kind.EXCLUDED,
        "A PDF, CDA or 3D model wrapped as DICOM, without pixels.",
        "None needed.",
    )
    RADIOTHERAPY_OBJECT = (
        "radiotherapy_object",
        Kind.EXCLUDED,
        "A radiotherapy object (plan, dose, structure set or treatment image).",
        "None needed.",
    )
    PRESENTATION_STATE = (
        "presentation_state",
        Kind.EXCLUDED,
        "A presentation state: how to show another image, without pixels.",
        "None needed; presentation states are not applied.",
    )
    WAVEFORM = (
        "waveform",
        Kind.EXCLUDED,
        "A waveform such as an ECG or a voice note, without pixels.",
        "None needed.",
    )
    NO_PIXEL_DATA = (
        "no_pixel_data",
        Kind.EXCLUDED,
        "A DICOM file that has no pixel data.",
        "Export the file again with its pixel data if it should be an image.",
    )
    UNREADABLE_FILE = (
        "unreadable_file",
        Kind.FAILED,
        "The file could not be opened or read, or is not a regular file.",
        "Check permissions and the disk, then run again.",
    )
    UNSUPPORTED_CONTAINER = (
        "unsupported_container",
        Kind.FAILED,
        "The file is a container that is not opened, such as 7z or rar, so the images in it are "
        "not scored.",
        "Unpack it, or pack it again as .zip or .tar.gz, then run again.",
    )
    TOO_LARGE = (
        "too_large",
        Kind.FAILED,
        "The file claims more pixels or bytes than the limit allows.",
        "Raise --max-pixels if the file is genuine.",
    )
    UNSUPPORTED_TRANSFER_SYNTAX = (
        "unsupported_transfer_syntax",
        Kind.FAILED,
        "The pixel data are compressed in a way that no trusted decoder reads.",
        "Convert the file, for example with gdcmconv --raw, then run again.",
    )
    UNSUPPORTED_IMAGE = (
        "unsupported_image",
        Kind.FAILED,
        "The header describes an image that the standard's rules cannot display.",
        "Check photometric interpretation, bit depths and samples per pixel in the header.",
    )
    TRUNCATED = (
        "truncated",
        Kind.FAILED,
        "The file ends before its image does.",
        "Copy or export the file again.",
    )
    CORRUPT = (
        "corrupt",
        Kind.FAILED,
        "The file contradicts its format: damaged bytes, a bad checksum or an impossible header.",
        "Copy or export the file again.",
    )
    DECODER_CRASHED = (
        "decoder_crashed",
        Kind.FAILED,
        "A decoder ended its process on this file, also when tried alone.",
        "The file is most likely damaged; copy or export it again.",
    )
    DECODER_TIMEOUT = (
        "decoder_timeout",
        Kind.FAILED,
        "Decoding took longer than the time limit, also when tried alone.",
        "The file is most likely damaged; raise the time limit if it is genuine.",
    )
    OUT_OF_MEMORY = (
        "out_of_memory",
        Kind.FAILED,
        "Memory ran out while the image was read.",
        "Use fewer --workers or a machine with more memory, then run score --update.",
    )
    READER_KILLED = (
        "reader_killed",
        Kind.FAILED,
        "The process that read the file was killed from outside, also when the file was tried "
        "alone.",
        "Use fewer --workers or a machine with more memory, then run score --update.",
    )


class Flag(_Described):
    """What a reader of the score should know about an image that was read."""

    LATERAL = "lateral", "The header says that this is a lateral view."
    NOT_CHEST_TAG = "not_chest_tag", "The header names a body part other than the chest."
    COLOUR = "colour", "The image has colour; its luminance was used."
    BURNED_IN_RISK = "burned_in_risk", "The header says that text may be burned into the image."
    LOSSY = "lossy", "The image has been compressed with loss."
    REDUCED_DECODING = "reduced_decoding", "The image was decoded at a reduced size."
    SECONDARY_CAPTURE = "secondary_capture", "A secondary capture: a scan or a screenshot."
    FOR_PROCESSING = "for_processing", "Detector values that were not processed for display."
    NO_VOI = "no_voi", "The header has no window or VOI LUT; a named policy was used."
    VOI_IGNORED = "voi_ignored", "A window, LUT or rescale in the header is invalid: ignored."
    MODALITY_MISSING = "modality_missing", "The header does not name a modality."
    NONCONFORMING = "nonconforming", "The file breaks its standard: `detail` says how."
    INVERTED_SUSPECTED = "inverted_suspected", "The pixels look inverted against the header."
    OUT_OF_DISTRIBUTION = "out_of_distribution", "The image is unlike those the model has seen."


class ReadingError(Exception):
    """A file or frame that gives no display image; never leaves `read_radiographs`.

    Attributes:
        outcome: The code.
        detail: One line for a person, free of header values that name a patient.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def reading_error(error: BaseException) -> ReadingError:
    """The outcome of any exception met while reading.

    A foreign exception gives its class name only: its text may quote the header, and the header
    names a patient.
    """
    if isinstance(error, ReadingError):
        return error
    if isinstance(error, MemoryError):
        return ReadingError(Outcome.OUT_OF_MEMORY, "not enough memory to read the image")
    if isinstance(error, EOFError):
        return ReadingError(Outcome.TRUNCATED, "the file ends too early")
    if isinstance(error, OSError) and error.errno is not None:
        # Libraries raise OSError for bad content too, but without the system's error number.
        return ReadingError(Outcome.UNREADABLE_FILE, error.strerror or type(error).__name__)
    name = type(error).__name__
    return ReadingError(Outcome.CORRUPT, f"the file cannot be interpreted ({name})")

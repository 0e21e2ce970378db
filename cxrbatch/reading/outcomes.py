"""The codes of what can become of a file: a closed set of outcomes, and flags on images.

An outcome says whether an image was scored and, if not, why. A flag says something about an image
that a reader of its score should know. Both are written to tables by their value, so a value is
never renamed.
"""

from enum import StrEnum


class OutcomeKind(StrEnum):
    """The three kinds of outcome of a file or frame.

    `SCORED`: its image was read and may be scored. `EXCLUDED`: it is nothing to score, such as a
    CT slice or a text. `FAILED`: it could not be read; only this means that something went wrong.
    """

    SCORED = "scored"
    EXCLUDED = "excluded"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of a file or frame: `SCORED` if its image may be scored, else the reason why not.

    Attributes:
        kind: Whether the image may be scored, is excluded, or could not be read.
        meaning: One line that explains the code to a user.
        remedy: What a user can do about it.
    """

    kind: OutcomeKind
    meaning: str
    remedy: str

    SCORED = "scored"
    NOT_AN_IMAGE = "not_an_image"
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    DICOMDIR = "dicomdir"
    STRUCTURED_REPORT = "structured_report"
    ENCAPSULATED_DOCUMENT = "encapsulated_document"
    RADIOTHERAPY_OBJECT = "radiotherapy_object"
    PRESENTATION_STATE = "presentation_state"
    WAVEFORM = "waveform"
    NO_PIXEL_DATA = "no_pixel_data"
    WITHHELD_BY_GATE = "withheld_by_gate"
    UNREADABLE_FILE = "unreadable_file"
    UNSUPPORTED_CONTAINER = "unsupported_container"
    TOO_LARGE = "too_large"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_IMAGE = "unsupported_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    READER_KILLED = "reader_killed"


class Flag(StrEnum):
    """A remark on a file or image, such as `LATERAL`, that a reader of the score should know.

    Attributes:
        meaning: One line that explains the remark to a user.
    """

    meaning: str

    LATERAL = "lateral"
    NOT_CHEST_TAG = "not_chest_tag"
    COLOUR = "colour"
    BURNED_IN_RISK = "burned_in_risk"
    LOSSY = "lossy"
    REDUCED_DECODING = "reduced_decoding"
    SECONDARY_CAPTURE = "secondary_capture"
    FOR_PROCESSING = "for_processing"
    NO_VOI = "no_voi"
    VOI_IGNORED = "voi_ignored"
    MODALITY_MISSING = "modality_missing"
    NONCONFORMING = "nonconforming"
    INVERTED_SUSPECTED = "inverted_suspected"
    OUT_OF_DISTRIBUTION = "out_of_distribution"


# Of each outcome the code with its kind, the meaning and the remedy, a line each.
_OUTCOMES = """
scored (scored)
The image was read and may be scored.
Nothing to do.
not_an_image (excluded)
The file is neither DICOM nor PNG nor JPEG, or is empty and not named as an image.
None needed; convert other image formats to DICOM or PNG to have them scored.
not_a_radiograph (excluded)
A DICOM image of a modality that is not a projection radiograph.
If the modality tag is wrong, widen the accepted modalities with --modality.
dicomdir (excluded)
A DICOMDIR: an index of other files, without pixels of its own.
None needed; the files that it lists are read where they lie.
structured_report (excluded)
A DICOM structured report or key object selection, without pixels.
None needed.
encapsulated_document (excluded)
A PDF, CDA or 3D model wrapped as DICOM, without pixels.
None needed.
radiotherapy_object (excluded)
A radiotherapy object (plan, dose, structure set or treatment image).
None needed.
presentation_state (excluded)
A presentation state: how to show another image, without pixels.
None needed; presentation states are not applied.
waveform (excluded)
A waveform such as an ECG or a voice note, without pixels.
None needed.
no_pixel_data (excluded)
A DICOM file that has no pixel data.
Export the file again with its pixel data if it should be an image.
withheld_by_gate (excluded)
The image is unlike those that the model has seen, so that --gate withholds its score.
Look at the image; without --gate it is scored, with the flag out_of_distribution.
unreadable_file (failed)
The file could not be opened or read, or is not a regular file.
Check permissions and the disk, then run again.
unsupported_container (failed)
The file is a container that is not opened, such as 7z or rar, so the images in it are not scored.
Unpack it, or pack it again as .zip or .tar.gz, then run again.
too_large (failed)
The file claims more pixels or bytes than the limit allows.
Raise --max-pixels if the file is genuine.
unsupported_transfer_syntax (failed)
The pixel data are compressed in a way that no trusted decoder reads.
Convert the file, for example with gdcmconv --raw, then run again.
unsupported_image (failed)
The header describes an image that the standard's rules cannot display.
Check photometric interpretation, bit depths and samples per pixel in the header.
truncated (failed)
The file ends before its image does, or is empty and named as an image or container.
Copy or export the file again.
corrupt (failed)
The file contradicts its format: damaged bytes, a bad checksum or an impossible header.
Copy or export the file again.
decoder_crashed (failed)
A decoder ended its process on this file, also when tried alone.
The file is most likely damaged; copy or export it again.
decoder_timeout (failed)
Decoding took longer than the time limit, also when tried alone.
The file is most likely damaged; raise the time limit if it is genuine.
out_of_memory (failed)
Memory ran out while the image was read.
Use fewer --workers or a machine with more memory, then run score --update.
reader_killed (failed)
The process that read the file was killed from outside, also when the file was tried alone.
Use fewer --workers or a machine with more memory, then run score --update.
"""
_LINES = _OUTCOMES.strip().splitlines()
for _code, _meaning, _remedy in zip(_LINES[::3], _LINES[1::3], _LINES[2::3], strict=True):
    _outcome = Outcome(_code.split()[0])
    _outcome.kind = OutcomeKind(_code.split()[1].strip("()"))
    _outcome.meaning, _outcome.remedy = _meaning, _remedy

_FLAGS = """
lateral: The header says that this is a lateral view.
not_chest_tag: The header names a body part other than the chest.
colour: The image has colour; its luminance was used.
burned_in_risk: The header says that text may be burned into the image.
lossy: The image has been compressed with loss.
reduced_decoding: The image was decoded at a reduced size.
secondary_capture: A secondary capture: a scan or a screenshot.
for_processing: Detector values that were not processed for display.
no_voi: The header has no window or VOI LUT; a named policy was used.
voi_ignored: A window, LUT or rescale in the header is invalid: ignored.
modality_missing: The header does not name a modality.
nonconforming: The file breaks its standard: `detail` says how.
inverted_suspected: The pixels look inverted against the header.
out_of_distribution: The image is unlike those the model has seen.
"""
for _line in _FLAGS.strip().splitlines():
    _code, _, _meaning = _line.partition(": ")
    Flag(_code).meaning = _meaning


class ReadingError(Exception):
    """Raised inside this package for a file or frame without a display image.

    The functions of `radiograph` catch it and return a Reading with its outcome and detail.

    Attributes:
        outcome: The code.
        detail: One line for a person, free of header values that name a patient.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def reading_error(error: BaseException) -> ReadingError:
    """Turn any exception raised while a file was read into a ReadingError.

    A ReadingError is returned unchanged. MemoryError becomes `out_of_memory`, EOFError `truncated`,
    an OSError with an error number `unreadable_file`, and all others `corrupt`. Of those others
    only the class name is kept: their text may quote the header, which names a patient.
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

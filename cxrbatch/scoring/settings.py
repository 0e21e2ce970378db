"""What a run is asked to do, and what became of it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cxrbatch.model.inference import DEFAULT_BATCH_SIZE, Backend, Precision
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.allowance import memory_for
from cxrbatch.reading.outcomes import Kind, Outcome
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.scoring.quantisation import Quantisation
from cxrbatch.scoring.runs import Part
from cxrbatch.scoring.writing import Counts
from cxrbatch.workers.isolation import Limits


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """Options of one run.

    Attributes:
        batch_size: Images per forward pass.
        workers: Processes that read files.
        precision: "auto", "fp32", "bf16", "fp16" or "int8".
        device: "auto", "cpu", "cuda" or "cuda:N".
        backend: "torch" or "openvino".
        calibration: Labelled images for int8, as a folder of class folders or a file of labels.
        follow_links: Follow symbolic links.
        max_pixels: Refuse images that claim more.
        modalities: DICOM modalities that are scored.
        deadline: Seconds that reading one file may take.
        commit_every: Files per shard: so many are scored again at most after a run was killed.
        part: The part of the archive that is scored.
        fast_decode: Decode at a reduced size where the codec offers it.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    workers: int = 1
    precision: Precision = "auto"
    device: str = "auto"
    backend: Backend = "torch"
    calibration: Path | None = None
    follow_links: bool = False
    max_pixels: int = ReadingOptions().max_pixels
    modalities: frozenset[str] = ReadingOptions().modalities
    deadline: float = Limits().seconds
    commit_every: int = 4096
    part: Part = field(default_factory=Part)
    fast_decode: bool = False

    @property
    def limits(self) -> Limits:
        """What one file may use."""
        return Limits(seconds=self.deadline, memory=memory_for(self.max_pixels))

    def reading(self, recipe: Recipe) -> ReadingOptions:
        """How files are read for a model of this recipe."""
        return ReadingOptions(
            max_pixels=self.max_pixels,
            modalities=self.modalities,
            no_voi=recipe.no_voi,
            least_size=recipe.least_size if self.fast_decode else None,
        )


@dataclass(slots=True)
class Summary:
    """What became of an archive.

    Attributes:
        output: The table.
        counts: What its rows add up to.
        passed_over: What the walk did not read, by kind.
        read: Files that were read in this run.
        images: Images that were scored in this run.
        seconds: From the first file read to the table in its place.
        scoring: Seconds of these in which the model was at work; 0 where too few to tell.
        device: Where the model ran.
        precision: At which precision.
        quantisation: What 8 bits cost, if they are used.
        lasting_patient_keys: Whether the keys of patients will be the same in the next run.
    """

    output: Path
    counts: Counts = field(default_factory=Counts)
    passed_over: Counter[str] = field(default_factory=Counter)
    read: int = 0
    images: int = 0
    seconds: float = 0.0
    scoring: float = 0.0
    device: str = ""
    precision: str = ""
    quantisation: Quantisation | None = None
    lasting_patient_keys: bool = True

    @property
    def failures(self) -> int:
        """Images and folders that could not be read."""
        outcomes = self.counts.outcomes
        images = sum(outcomes[code] for code in Outcome if code.kind is Kind.FAILED)
        return images + self.passed_over["unreadable_folder"]

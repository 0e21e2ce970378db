"""The limit of a machine for an archive, and how near to it a run comes.

An image asks for its bytes from the disk, for the codec and for a forward pass. On a CPU codec and
forward pass share the cores, so their times add; a disk and a GPU work beside them. The limit is
the rate at which the busiest of them is never idle.
"""

import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import torch

from cxrbatch.errors import UsageError
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.inference import choose_device, choose_precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.process import available_cores, keep_freed_memory
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.scoring.archive import ArchiveFile, Walk
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.scoring.run import Progress, ScoringOptions
from cxrbatch.scoring.score import score_archive
from cxrbatch.speed.machine import (
    BareFile,
    Capacities,
    Demands,
    Rounds,
    codec_measure,
    copy_measure,
    disk_rate,
    find_pixels,
    forward_measure,
    native_precisions,
    operation_measure,
    operations_of,
)
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem


class RunClock:
    """Times a run without its beginning and end, and passes every call on to a `Progress`.

    The clock starts when `after` files were read, and stops while the last files on their way are
    scored: the scores of as many others were on their way when it started, so that between start
    and stop as many images are scored as are read. With `after` 0 the whole run counts.

    Attributes:
        before: Files that were read before the clock started.
    """

    def __init__(self, progress: Progress, *, after: int) -> None:
        """Create the clock; it starts during the run.

        Args:
            progress: Each call of a method of this object is passed on to it.
            after: Files that are read before the clock starts.
        """
        self._progress = progress
        self._after = after
        self._started = self._last_read = self._drained = 0.0
        self.before = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return the method of the `Progress` with this name, for those that need no clock."""
        return cast(Callable[..., None], getattr(self._progress, name))

    @property
    def seconds(self) -> float:
        """Seconds from the clock's start to now, without the scoring of the last files.

        To be read when the run has ended.
        """
        draining = self._drained - self._last_read if self._after else 0.0
        return time.perf_counter() - self._started - draining

    def start(self, files: int, *, done: int) -> None:
        """Pass on the numbers of all files and of those done before, and start the clock."""
        self._progress.start(files, done=done)
        self._started = time.perf_counter()

    def advance(self, files: int) -> None:
        """Pass `files`, the files read since the last call, on to the `Progress`; store the time.

        The clock starts anew at each call until `after` files were read.
        """
        self._progress.advance(files)
        self._last_read = time.perf_counter()
        if self.before < self._after:
            self.before += files
            self._started = self._last_read

    def shard_done(self, files: int) -> None:
        """Pass `files`, the files of a written shard, on to the `Progress`; store the time."""
        self._progress.shard_done(files)
        self._drained = time.perf_counter()


_WALKED_SECONDS = 5.0
_SAMPLE = 64
_SAMPLED_SECONDS = 8.0
# The run from end to end comes in parts, with rounds of measuring before, between and after.
_RUNS = 4
_RUN_SECONDS = 15.0
_ROUND_SECONDS = 0.8
# Batches, after which each lane has one, and one waits.
_FILLED = 5


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a machine could do with an archive, and what it did.

    Attributes:
        device: The device in words.
        on_gpu: Whether the forward pass runs on a GPU, beside the codec.
        precision: Precision of the forward pass.
        capacities: Rates of the machine.
        demands: What one image needs.
        images: Images timed from file to table; of a long run those after its first batches.
        seconds: Time of these images, with the writing of the table.
    """

    device: str
    on_gpu: bool
    precision: str
    capacities: Capacities
    demands: Demands
    images: int = 0
    seconds: float = 0.0

    @property
    def stages(self) -> dict[str, float]:
        """Seconds that one image takes, by stage: codec, forward pass and, if measured, disk."""
        demands = self.demands
        stages = {"codec": demands.decode, "forward pass": demands.forward}
        if self.capacities.disk:
            stages["disk"] = demands.bytes / self.capacities.disk
        return stages

    @property
    def limit(self) -> float:
        """Images per second at which the busiest part of the machine would never be idle.

        It is set by the slowest stage; without a GPU codec and forward pass count as one, as they
        share the cores.
        """
        stages = dict(self.stages)
        if not self.on_gpu:
            stages["cores"] = stages.pop("codec") + stages.pop("forward pass")
        return 1.0 / max(stages.values())

    @property
    def bottleneck(self) -> str:
        """Name of the stage in which one image takes longest, as in `stages`."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def rate(self) -> float:
        """Images scored per second, from file to table; 0 where nothing was timed."""
        return self.images / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, as `cxrbatch bench --json` prints them."""
        capacities, demands = self.capacities, self.demands
        return {
            "device": self.device,
            "precision": self.precision,
            "capacities": {
                "cores": capacities.cores,
                "gemm_flops_per_second": capacities.gemm,
                "disk_bytes_per_second": capacities.disk,
                "copy_bytes_per_second": capacities.copy,
            },
            "demands_per_image": {
                "encodings": demands.kinds,
                "file_bytes": demands.bytes,
                "codec_seconds": demands.decode,
                "forward_seconds": demands.forward,
                "forward_flops": demands.operations,
            },
            "limit_images_per_second": self.limit,
            "rate_images_per_second": self.rate,
            "ratio": self.rate / self.limit,
            "bottleneck": self.bottleneck,
            "images": self.images,
            "seconds": self.seconds,
        }


def measure(
    archive: Path, *, checkpoint: Path, options: ScoringOptions, progress: Progress
) -> Measurement:
    """Measure the limit of a machine for an archive and a checkpoint, and time runs of a sample.

    Args:
        archive: A folder, of which at most 64 files that are no containers are taken at random.
        checkpoint: What to score with.
        options: Options of the timed runs, in which links are always followed; workers, limits,
            batch size, device, precision and backend count in the other measurements, too.
        progress: Its methods are called as the timed runs get on.

    Raises:
        UsageError: The options cannot be used here, or the archive has no image to measure.
        CheckpointError: The checkpoint cannot be used.
    """
    device = choose_device(options.device, options.backend)
    precision = choose_precision(options.precision, device, options.backend)
    loaded = load_checkpoint(checkpoint)
    files = _sample(archive, loaded, options)
    if device.type == "cpu":
        keep_freed_memory()
    predictor = Predictor(
        loaded,
        batch_size=options.batch_size,
        device=device,
        precision=precision,
        backend=options.backend,
    )
    size = loaded.card.recipe.size
    rounds = Rounds(
        {
            "codec": codec_measure(files, size=size, seconds=_ROUND_SECONDS),
            "forward": forward_measure(predictor),
            **{name: operation_measure(name, device) for name in native_precisions(device)},
            **({"copy": copy_measure(device)} if device.type == "cuda" else {}),
        },
        seconds=_ROUND_SECONDS,
    )
    disk = disk_rate([file.path for file in files])
    operations = operations_of(loaded, size)

    def measured() -> Measurement:
        return Measurement(
            device=describe_device(device, options.backend),
            on_gpu=device.type == "cuda",
            precision=precision,
            capacities=_capacities(rounds, disk, device),
            demands=_demands(files, rounds, operations),
        )

    rounds.take()
    images = max(options.batch_size, round(measured().limit * _RUN_SECONDS))
    parts = min(_RUNS, max(1, images // (2 * _FILLED * options.batch_size)))
    done, seconds = 0, 0.0
    for _ in range(parts):
        part = _run(files, images // parts, checkpoint, options, progress)
        done, seconds = done + part[0], seconds + part[1]
        rounds.take()
    return replace(measured(), images=done, seconds=seconds)


def _sample(archive: Path, loaded: Checkpoint, options: ScoringOptions) -> list[BareFile]:
    """Choose files at random among those that the walk finds within some seconds."""
    chosen = _choose(archive)
    base = Walk(archive).base
    recipe = loaded.card.recipe
    reader = FileReader(os.fsencode(base), recipe, ReadingOptions(no_voi=recipe.no_voi), b"")
    with ReadingPool(
        reader,
        workers=max(1, options.workers),
        limits=options.limits,
        result_bytes=recipe.size**2,
    ) as pool:
        end = time.monotonic() + _SAMPLED_SECONDS
        in_time = takewhile(lambda _: time.monotonic() < end, enumerate(chosen))
        portions = pool.map(PendingItem(number, file) for number, file in in_time)
        single = [
            base / os.fsdecode(file.path)
            for file, portion in zip(chosen, portions, strict=False)
            if isinstance(portion, LoadedFile)
            and [row.outcome for row in portion.rows] == [Outcome.SCORED.value]
        ]
    found = [bare for bare in map(find_pixels, single) if bare is not None]
    if not found:
        raise UsageError(
            f"none of {len(chosen):,} files of {archive} is a single image that can be measured; "
            "name a folder of PNG, JPEG or DICOM files"
        )
    return found


def _choose(archive: Path) -> list[ArchiveFile]:
    """A uniform sample of the walk's files, by reservoir sampling."""
    rng = random.Random(0)
    end = time.monotonic() + _WALKED_SECONDS
    chosen: list[ArchiveFile] = []
    plain = (file for file in Walk(archive) if file.member is None and file.fault is None)
    for number, file in enumerate(plain):
        if len(chosen) < _SAMPLE:
            chosen.append(file)
        elif (place := rng.randrange(number + 1)) < _SAMPLE:
            chosen[place] = file
        if time.monotonic() > end:
            break
    rng.shuffle(chosen)
    return chosen


def _capacities(rounds: Rounds, disk: float | None, device: torch.device) -> Capacities:
    gemm = {name: 1 / rounds.mean(name) for name in native_precisions(device)}
    copy = 1 / rounds.mean("copy") if device.type == "cuda" else None
    return Capacities(cores=available_cores(), gemm=gemm, disk=disk, copy=copy)


def _demands(files: Sequence[BareFile], rounds: Rounds, operations: float) -> Demands:
    return Demands(
        kinds=Counter(file.kind for file in files),
        bytes=statistics.mean(file.path.stat().st_size for file in files),
        decode=rounds.mean("codec"),
        forward=rounds.mean("forward"),
        operations=operations,
    )


def _run(
    files: Sequence[BareFile],
    images: int,
    checkpoint: Path,
    options: ScoringOptions,
    progress: Progress,
) -> tuple[int, float]:
    """Score the sample over and over, as an archive of links; images and seconds, once it runs."""
    # Filling and draining count little among many; a minute has no time for many of the slowest.
    filled = _FILLED * options.batch_size
    clock = RunClock(progress, after=filled if images >= 2 * filled else 0)
    with tempfile.TemporaryDirectory(prefix="cxrbatch-bench-") as folder:
        archive, output = Path(folder, "archive"), Path(folder, "results.parquet")
        archive.mkdir()
        for number in range(images):
            link = archive / f"{number:06d}"
            link.symlink_to(files[number % len(files)].path.absolute())
        score_archive(
            archive,
            output,
            checkpoint=checkpoint,
            options=replace(options, follow_links=True),
            progress=cast(Progress, clock),
        )
        return images - clock.before, clock.seconds

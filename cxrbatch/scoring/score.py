"""The public call that scores an archive into a table, and the bar that it shows.

Nothing here imports torch: the processes that read files start before it is loaded.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from cxrbatch.errors import UsageError, checked_path, naming_arguments
from cxrbatch.files import check_output, claimed, writing
from cxrbatch.process import default_workers
from cxrbatch.reading.readings import modality_codes
from cxrbatch.scoring.run import Part, Progress, ScoringOptions, Summary, check_flag
from cxrbatch.workers.forkserver_client import Forkserver

if TYPE_CHECKING:
    from tqdm import tqdm

    from cxrbatch.model.inference import Backend, Precision
    from cxrbatch.scoring.engine import ShardExecutor

_OTHER_FORMATS = frozenset({".csv", ".tsv", ".txt", ".xls", ".xlsx", ".json", ".html"})

READERS = ("cxrbatch.scoring.file_reader",)
"""Modules that the processes which read files import before they are forked."""


class ProgressBar(Progress):
    """Shows a tqdm bar on stderr, if that is a terminal: files found, then files scored.

    Attributes:
        files: Number of files to score.
        kept: Number of these whose rows are on disk.
    """

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self.files = 0
        self.kept = 0

    def found(self, files: int) -> None:
        """Show that `files` files have been found so far; the first call opens the bar."""
        if self._bar is None:
            self._open("looking for files", None, 0)
        if self._bar is not None:
            self._bar.update(files - self._bar.n)

    def start(self, files: int, *, done: int) -> None:
        """Replace the bar by one that counts scored files, from `done` to `files`.

        If `done` is not 0, write a line first: how much of an unfinished run is done and left.
        """
        self.close()
        self.files, self.kept = files, done
        if done:
            self._write(
                f"going on with an unfinished run: {done:,} of {files:,} files are done, "
                f"{files - done:,} are left"
            )
        self._open("scoring", files, done)

    def advance(self, files: int) -> None:
        """Move the bar on by `files` files; do nothing without a bar."""
        if self._bar is not None:
            self._bar.update(files)

    def shard_done(self, files: int) -> None:
        """Add `files` to `kept`, the number of files on disk; the bar does not move."""
        self.kept += files

    def fewer_workers(self) -> None:
        """Write a warning above the bar that processes were killed and fewer read from now on."""
        self._write(
            "warning: reading processes were killed, most likely as memory is short: fewer read "
            "at once from now on; use fewer --workers or a machine with more memory"
        )

    def close(self) -> None:
        """End the bar, if one is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, what: str, total: int | None, done: int) -> None:
        from tqdm import tqdm

        # disable=None: no bar where stderr is not a terminal.
        self._bar = tqdm(
            desc=what, total=total, initial=done, unit=" files", disable=None, dynamic_ncols=True
        )

    def _write(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(message, file=sys.stderr)


def score(
    archive: str | os.PathLike[str],
    output: str | os.PathLike[str] = "results.parquet",
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    update: bool = False,
    batch_size: int = 32,
    workers: int | None = None,
    backend: "Backend" = "torch",
    precision: "Precision" = "auto",
    calibration: str | os.PathLike[str] | None = None,
    device: str = "auto",
    follow_links: bool = False,
    max_pixels: int = 200_000_000,
    modality: str | Iterable[str] = (),
    fast_decode: bool = False,
    gate: bool = False,
    deadline: float = 60.0,
    commit_every: int = 4096,
    shard: str = "1/1",
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    progress: bool | Progress = True,
) -> Summary:
    """Score an archive of chest radiographs into a Parquet table, a row for each frame of a file.

    A call that was interrupted is continued by the same call.

    Args:
        archive: A folder of DICOM, PNG and JPEG files, or one file; containers are looked into.
        output: The table to write; it appears when it is whole.
        checkpoint: The model, a .safetensors checkpoint; None for the bundled model.
        overwrite: Replace an existing output.
        update: Keep the rows of an existing output whose files have the same size and time, but not
            failures that the disk or the machine may have caused.
        batch_size: Images per forward pass.
        workers: Processes that read files; 0 reads in this process, where a decoder that crashes
            ends it; None for one per core, up to 16.
        backend: "torch" or "openvino".
        precision: "auto", "fp32", "bf16", "fp16" or, with OpenVINO, "int8".
        calibration: For int8: labelled images, as class folders or a file of labels.
        device: "auto", "cpu", "cuda" or "cuda:N".
        follow_links: Follow symbolic links, each folder once.
        max_pixels: Refuse an image that claims more pixels, before it is decoded.
        modality: DICOM modalities that are scored too, beside CR, DX and RG: one, or several.
        fast_decode: Decode grey JPEG and JPEG 2000 at a reduced size: faster, and changes scores
            slightly.
        gate: Give no score to an image that is unlike those the model has seen, but the outcome
            `withheld_by_gate`; without it such an image is scored, and has a flag.
        deadline: Seconds after which a worker process gives a file up, 0.1 to 86,400.
        commit_every: Files that are put on the disk at a time.
        shard: "2/8" scores the second of eight parts, for `merge_parts` to join.
        engine: "local" scores in this process, "ray" on the nodes of a Ray cluster.
        ray_address: The cluster's address; None starts Ray on this machine.
        progress: True shows a bar on a terminal, False nothing; or the object to report to.

    Returns:
        The counts of the table and the speed of the run.

    Raises:
        UsageError: An argument is of another type or out of its range, the arguments contradict
            each other, the archive is missing or empty, the output's name or folder is
            unsuitable, another process writes it, or it or an unfinished run was made by other
            arguments.
        CheckpointError: The checkpoint cannot be used.
        LabelError: The calibration images cannot be used.
        TableError: The table cannot be written, or what exists of it is damaged.
        CxrbatchError: A score is not finite, memory does not suffice, no process can be started, or
            int8 changes the accuracy by too much.
    """
    for name, value in (("overwrite", overwrite), ("update", update)):
        check_flag(name, value)
    if not isinstance(progress, bool | Progress):
        raise UsageError("progress is neither True nor False nor a Progress object")
    listener = ProgressBar() if progress is True else progress or Progress()
    with naming_arguments(), closing(listener):
        options = ScoringOptions(
            batch_size=batch_size,
            workers=default_workers() if workers is None else workers,
            backend=backend,
            precision=precision,
            calibration=_given("calibration", calibration),
            device=device,
            follow_links=follow_links,
            max_pixels=max_pixels,
            modalities=modality_codes("modality", modality),
            deadline=deadline,
            commit_every=commit_every,
            part=Part.from_text(shard),
            fast_decode=fast_decode,
            gate=gate,
        )
        return score_archive(
            checked_path("archive", archive),
            checked_path("output", output),
            checkpoint=_given("checkpoint", checkpoint),
            options=options.checked(),
            overwrite=overwrite,
            update=update,
            engine=engine,
            ray_address=ray_address,
            progress=listener,
        )


def _given(name: str, path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else checked_path(name, path)


def score_archive(
    archive: Path,
    output: Path,
    *,
    checkpoint: Path | None,
    options: ScoringOptions,
    progress: Progress,
    overwrite: bool = False,
    update: bool = False,
    engine: str = "local",
    ray_address: str | None = None,
    executor: "ShardExecutor | None" = None,
) -> Summary:
    """Score an archive into a table, as `score` does, with arguments that are checked already.

    Messages of errors name options of the command line, as in --batch-size, not arguments.

    Args:
        archive: A folder, or one file.
        output: The table to write.
        checkpoint: The model; None for the bundled one.
        options: The run's options.
        progress: Receives the progress; the caller closes it.
        overwrite: Replace an existing output.
        update: Keep the rows of an existing output whose files have the same size and time, but not
            failures that the disk or the machine may have caused.
        engine: "local" or "ray".
        ray_address: The address of the Ray cluster; None starts Ray on this machine.
        executor: Writes the shards in place of this process, if `engine` is "local".

    Returns:
        The counts of the table and the speed of the run.

    Raises:
        CxrbatchError: Or one of its kinds, in the cases in which `score` raises it.
    """
    check_call(overwrite, update, engine=engine, ray_address=ray_address, backend=options.backend)
    check_table_name(output)
    check_output(output, overwrite=True, source=archive)
    reads_here = options.workers and engine == "local" and executor is None
    # torch takes seconds to load: a second run is refused before, and the processes that read
    # files start meanwhile.
    with (
        claimed(output),
        closing(Forkserver(preload=READERS)) if reads_here else nullcontext() as forkserver,
    ):
        from cxrbatch.model.checkpoint import bundled_checkpoint
        from cxrbatch.scoring.engine import Engine

        if engine == "ray":
            from cxrbatch.scoring.ray_engine import RayEngine

            executor = RayEngine(ray_address)
        progress.loaded()
        made = Engine(archive, output, checkpoint or bundled_checkpoint(), options, progress)
        with writing(output):
            return made.run(
                overwrite=overwrite, update=update, executor=executor, forkserver=forkserver
            )


def check_call(
    overwrite: bool, update: bool, *, engine: str, ray_address: str | None, backend: str
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: `overwrite` and `update` are both set; `engine` is neither "local" nor "ray";
            `ray_address` is no text, or not empty with the engine "local"; or `backend` is not
            "torch" with the engine "ray".
    """
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine!r} is unknown; give 'local' or 'ray'.")
    if overwrite and update:
        raise UsageError("--update keeps what --overwrite replaces; give one of them.")
    if ray_address is not None and not isinstance(ray_address, str):
        raise UsageError(f"--ray-address is {repr(ray_address)[:60]}; give a text")
    if ray_address and engine != "ray":
        raise UsageError("--ray-address goes with --engine ray.")
    if backend != "torch" and engine == "ray":
        raise UsageError("--backend openvino goes with --engine local alone.")


def check_table_name(output: Path) -> None:
    """Refuse an output whose name has the ending of another format than Parquet.

    Raises:
        UsageError: The name ends in .csv, .tsv, .txt, .xls, .xlsx, .json or .html, in any case.
    """
    if output.suffix.lower() in _OTHER_FORMATS:
        name = output.with_suffix(".parquet").name
        raise UsageError(
            f"{output}: a table is a Parquet file; give -o {name}, and make a CSV file of it with "
            f"cxrbatch.load_results({name!r}).to_csv({output.with_suffix('.csv').name!r})"
        )

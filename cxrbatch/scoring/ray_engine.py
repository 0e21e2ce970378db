"""Scores the shards of a run on a Ray cluster, or by Ray on this machine.

Ray Data gives the numbers of shards to actors that hold the model, and each writes its shards with
the local engine's own code. So either engine can continue a run of the other, to the same bytes.
"""

import gc
import importlib.util
import logging
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.files import path_to_text
from cxrbatch.process import available_cores
from cxrbatch.scoring.archive import read_manifest
from cxrbatch.scoring.engine import Engine
from cxrbatch.scoring.plan import Plan
from cxrbatch.scoring.ray_worker import ActorSetup, ShardReport, ShardScorer

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # On a cluster that collects them, Ray Data would ask for figures in a thread that never ends.
    "RAY_DATA_USAGE_DISABLED": "1",
    # Ray would run its workers at the lowest priority but three, behind all else on the machine.
    "RAY_worker_niceness": "0",
    # Its native code would write to this process's stderr.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # A future default of Ray, which warns on stderr until it is set.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_LAST = 10.0
"""Longest wait in seconds for a thread of Ray Data to end; usual is a tenth of a second."""


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Writes the shards of a run in processes of Ray; a `ShardExecutor`, which `Engine.run` calls.

    Attributes:
        address: The cluster, as for `ray.init`; None starts Ray on this machine for the run.
    """

    address: str | None

    def __post_init__(self) -> None:
        """Check that Ray can be used.

        Raises:
            UsageError: Ray is not installed, or the address is one of a Ray client.
        """
        if self.address and self.address.startswith("ray://"):
            raise UsageError(
                "--ray-address ray:// is that of a client; run the command on a node of the "
                "cluster, with --ray-address auto"
            )
        if importlib.util.find_spec("ray") is None:
            raise UsageError("--engine ray needs Ray; install it: pip install 'cxrbatch[ray]'")

    def __call__(self, engine: Engine, plan: Plan, missing: Mapping[Path, range]) -> None:
        """Score the missing shards on the cluster, and write them to the engine's partial folder.

        As long as at least one shard is done in between, the rest is tried again after Ray lost an
        actor.

        Args:
            engine: The engine that leads the run; its progress and summary are kept up to date.
            plan: The files and shards of the run.
            missing: The path of each missing shard, and the numbers of its files in the manifest.

        Raises:
            CxrbatchError: Ray cannot be started or reached, has no node with enough cores and GPUs,
                or lost its processes before one more shard was done; or an actor could not write a
                shard. Ray's RayTaskError is an error of the program.
        """
        indices = {numbers.start: index for index, numbers in enumerate(plan.shards)}
        waiting = [indices[numbers.start] for numbers in missing.values()]
        with _connected(self.address):
            job = _Job(engine, plan)
            while waiting:
                waiting = job.attempt(waiting)


class _Job:
    """Scores the shards of one run on a cluster that is connected."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine = engine
        self._plan = plan
        options = replace(engine.options, device=engine.device.type, precision=engine.precision)
        self._setup = ActorSetup(engine, plan, options=options)
        self._needs = _Needs.of(engine)
        self._all_work = True

    def attempt(self, waiting: list[int]) -> list[int]:
        """Score shards until all are done, or Ray loses a process for good.

        Args:
            waiting: Indices of the shards.

        Returns:
            Indices of the shards that are not done.

        Raises:
            CxrbatchError: An actor refused a shard, or none was done.
        """
        from ray.exceptions import RayError, RayTaskError

        left = dict.fromkeys(waiting)
        try:
            with closing(self._rows(waiting)) as rows:
                for row in rows:
                    self._pass_on(row["shard"], ShardReport.from_text(row["report"]))
                    del left[row["shard"]]
        except RayTaskError:
            raise  # an error in the program
        except RayError as error:
            # The other actors have ended too; their unfinished shards are scored again.
            if len(left) == len(waiting):
                _give_up(error)
        return list(left)

    def _rows(self, waiting: list[int]) -> Generator[dict[str, Any]]:
        import ray
        from ray.data import ActorPoolStrategy
        from ray.util.annotations import RayDeprecationWarning

        actors = min(self._room(), len(waiting))
        scorer: Any = ShardScorer  # which Ray types for functions alone
        items = [{"shard": index} for index in waiting]
        with warnings.catch_warnings():
            # Ray plans parameters of their own for the last two options, and has none yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            scored = ray.data.from_items(items, override_num_blocks=len(items)).map(
                scorer,
                fn_constructor_args=[self._setup],
                # A shard waits for any free actor, not behind another shard of one actor.
                compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
                num_cpus=self._needs.cpus,
                num_gpus=self._needs.gpus or None,
                # A process that dies is restarted once and its shard tried once more; the default
                # is for ever.
                max_restarts=1,
                max_task_retries=1,
            )
        # Not `iter_batches`, which leaves a thread running when it is closed early; the end of this
        # loop ends the threads of Ray Data and waits for them.
        for bundle in scored.iter_internal_ref_bundles():
            for block in ray.get(list(bundle.block_refs)):
                yield from block.to_pylist()

    def _room(self) -> int:
        """Count the actors that fit on the cluster.

        Raises:
            CxrbatchError: None does.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(map(self._needs.room, nodes))
        if not room:
            raise CxrbatchError(
                f"no node of Ray has {self._needs}, which one scoring process takes; try fewer "
                "--workers and a smaller OMP_NUM_THREADS"
            )
        return room

    def _pass_on(self, index: int, report: ShardReport) -> None:
        """Report a shard's failures and counts to the engine's progress and summary.

        Raises:
            CxrbatchError: The actor refused the shard.
        """
        if report.refusal:
            raise CxrbatchError(report.refusal)
        numbers, progress = self._plan.shards[index], self._engine.progress
        for number in report.retried:
            progress.retried(number, self._path(number))
        for number, outcome in report.failed:
            progress.failed(number, self._path(number), outcome)
        if report.fewer_workers and self._all_work:
            self._all_work = False
            progress.fewer_workers()
        self._engine.summary.read += report.read
        self._engine.summary.images += report.images
        progress.advance(len(numbers))
        progress.shard_done(len(numbers))

    def _path(self, number: int) -> str:
        (file,) = read_manifest(self._engine.folder, start=number, stop=number + 1)
        return path_to_text(file.path, file.member)


@dataclass(frozen=True, slots=True)
class _Needs:
    """Cores and GPUs of an actor: as many as the local engine would use of this machine."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, engine: Engine) -> "_Needs":
        workers = min(engine.options.workers, available_cores())
        on_gpu = engine.device.type == "cuda"
        return cls(max(1 if on_gpu else torch.get_num_threads(), workers), int(on_gpu))

    def room(self, has: Mapping[str, float]) -> int:
        """Count the actors that fit on a node, given its resources by Ray's names."""
        cpus = int(has.get("CPU", 0) // self.cpus)
        return min(cpus, int(has.get("GPU", 0) // self.gpus)) if self.gpus else cpus

    def __str__(self) -> str:
        return f"{self.cpus} CPU and {self.gpus} GPU" if self.gpus else f"{self.cpus} CPU"


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, until the context ends.

    Raises:
        CxrbatchError: It cannot be reached or started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # Ray reads it when it is imported
    import ray
    import ray.data

    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # large files take half an hour
    cores = None if address else available_cores()
    try:
        # Ray puts the current folder in front of its workers' path, where a file of an archive
        # could be imported as a module.
        with _handlers_kept(), _stderr_closed(), chdir("/"):
            ray.init(
                address or "local",
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                num_cpus=cores,
                include_dashboard=None if address else False,
            )
    except Exception as error:  # Ray raises it bare where a node takes too long to start
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "check --ray-address" if address else "see its logs in /tmp/ray"
        raise CxrbatchError(
            f"Ray cannot be {'reached' if address else 'started'}: {reason}; {remedy}"
        ) from None
    before = {*threading.enumerate()}
    try:
        yield
    finally:
        # While Ray shuts down, a thread that frees one of its objects ends this process with exit
        # code 1 and no message: a thread of Ray Data, which is not joined for longer than two
        # seconds, or the one that runs the garbage collector.
        for thread in {*threading.enumerate()} - before:
            if not isinstance(thread, threading._DummyThread):  # of native code; it never ends
                thread.join(_LAST)
        gc.collect()
        with _handlers_kept():
            ray.shutdown()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM at the end: Ray replaces it at its start and its end."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep Ray's native code, which writes its log level, off stderr, which may be an event log."""
    kept, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


def _give_up(error: Exception) -> NoReturn:
    raise CxrbatchError(
        "Ray lost its scoring processes before they had done one more shard "
        f"({type(error).__name__}); see that every node has this version of cxrbatch and memory "
        "for it, then run again to go on"
    ) from None

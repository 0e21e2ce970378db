"""What an actor does, without Ray: the engine's shards in any order, and refusals in one line."""

import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listeners import Silent
from PIL import Image

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.engine import Engine, ShardExecutor
from cxrbatch.scoring.plan import Plan
from cxrbatch.scoring.ray_engine import RayEngine
from cxrbatch.scoring.ray_worker import ActorSetup, ShardReport, ShardScorer
from cxrbatch.scoring.run import ScoringOptions, Summary
from cxrbatch.scoring.score import score_archive

FILES, SHARD, CUT = 30, 4, 17


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(FILES):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}", "PNG")
    (folder / f"{CUT}").write_bytes((folder / f"{CUT}").read_bytes()[:60])
    return folder


@pytest.fixture
def score(archive: Path, tiny_checkpoint: Path) -> Callable[..., Summary]:
    def run(output: Path, executor: ShardExecutor | None = None, **more: bool) -> Summary:
        options = ScoringOptions(
            workers=0, batch_size=8, commit_every=SHARD, precision="fp32", device="cpu"
        )
        return score_archive(
            archive,
            output,
            checkpoint=tiny_checkpoint,
            options=options,
            progress=Silent(),
            executor=executor,
            **more,
        )

    return run


class InAnActor:
    """Scores in this process what an actor would, in an order of its own."""

    def __init__(self, order: Callable[[Iterable[int]], Iterable[int]] = list) -> None:
        self.order = order
        self.reports: list[ShardReport] = []

    def __call__(self, engine: Engine, plan: Plan, left: Mapping[Path, range]) -> None:
        self.before(engine)
        setup = ActorSetup(engine, plan, options=engine.options)
        assert repr(engine.secret)[2:-1] not in repr(setup)
        actor = ShardScorer(pickle.loads(pickle.dumps(setup)))
        for index in self.order(range(len(plan.shards))):
            told: dict[str, Any] = actor({"shard": index})
            self.reports.append(ShardReport.from_text(told["report"]))
            if self.reports[-1].refusal:
                raise UsageError(self.reports[-1].refusal)

    def before(self, engine: Engine) -> None:
        """Spoil nothing."""


def reversed_list(indices: Iterable[int]) -> list[int]:
    return list(indices)[::-1]


@pytest.mark.parametrize("order", [list, reversed_list])
def test_shards_in_any_order_make_the_local_engines_table(
    score: Callable[..., Summary],
    tmp_path: Path,
    order: Callable[[Iterable[int]], Iterable[int]],
) -> None:
    actor = InAnActor(order)
    score(tmp_path / "local.parquet")
    score(tmp_path / "r.parquet", actor)
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
    assert sum(report.read for report in actor.reports) == FILES
    assert sum(report.images for report in actor.reports) == FILES - 1
    assert [fault for report in actor.reports for fault in report.failed] == [
        (CUT, Outcome.TRUNCATED)
    ]


@pytest.mark.parametrize("order", [list, reversed_list])
def test_rows_that_still_hold_are_kept_in_any_order(
    score: Callable[..., Summary],
    archive: Path,
    tmp_path: Path,
    order: Callable[[Iterable[int]], Iterable[int]],
) -> None:
    outputs = [tmp_path / "local.parquet", tmp_path / "r.parquet"]
    for output in outputs:
        score(output)
    for number in (3, 20):
        os.utime(archive / f"{number:02d}", ns=(0, number))
    actor = InAnActor(order)
    score(outputs[0], update=True)
    score(outputs[1], actor, update=True)
    assert outputs[1].read_bytes() == outputs[0].read_bytes()
    assert sum(report.read for report in actor.reports) == 2


def test_what_a_retried_shard_gives_is_the_same_again(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    actor = InAnActor(lambda indices: [*indices, 2, 3, 1])
    score(tmp_path / "local.parquet")
    score(tmp_path / "r.parquet", actor)
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()


class WithoutArchive(InAnActor):
    def before(self, engine: Engine) -> None:
        engine.archive.rename(engine.archive.with_name("moved"))
        engine.archive.mkdir()


class WithoutRun(InAnActor):
    def before(self, engine: Engine) -> None:
        (engine.folder / "run.json").unlink()


class WithAnotherModel(InAnActor):
    def before(self, engine: Engine) -> None:
        copy = engine.output.with_name("other.safetensors")
        copy.write_bytes(engine.checkpoint.read_bytes() + b"\0")
        engine.checkpoint = copy


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (WithoutArchive, "does not see the files of .*archive; put the archive on storage"),
        (WithoutRun, r"does not see .*r\.parquet\.partial; choose an -o on storage"),
        (WithAnotherModel, "checkpoint"),
    ],
)
def test_a_node_that_would_make_other_rows_refuses(
    score: Callable[..., Summary], tmp_path: Path, spoiled: type[InAnActor], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        score(tmp_path / "r.parquet", spoiled())
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "r.parquet").exists()


def test_a_full_disk_is_a_refusal_that_leaves_what_was_committed(
    score: Callable[..., Summary],
    tmp_path: Path,
    full_at: Callable[[str], AbstractContextManager[None]],
) -> None:
    error = pytest.raises(UsageError, match="No space left on device; free space")
    with full_at("shard-000003.arrow"), error:
        score(tmp_path / "r.parquet", InAnActor())
    assert score(tmp_path / "r.parquet").read == FILES - 3 * SHARD


class ThatCannotBeginAgain(InAnActor):
    """A node that loses sight of the run when it is to begin anew."""

    def __call__(self, engine: Engine, plan: Plan, left: Mapping[Path, range]) -> None:
        actor = ShardScorer(
            pickle.loads(pickle.dumps(ActorSetup(engine, plan, options=engine.options)))
        )
        for index in (2, 1, 3):
            told: dict[str, Any] = actor({"shard": index})
            self.reports.append(ShardReport.from_text(told["report"]))
            (engine.folder / "run.json").unlink(missing_ok=True)
        raise UsageError("enough")


def test_who_cannot_begin_again_writes_no_more(
    score: Callable[..., Summary], tmp_path: Path
) -> None:
    actor = ThatCannotBeginAgain()
    with pytest.raises(UsageError, match="enough"):
        score(tmp_path / "r.parquet", actor)
    first, *others = actor.reports
    assert (first.refusal, first.read) == ("", SHARD)
    assert all("does not see" in report.refusal for report in others)
    assert [report.read for report in others] == [0, 0]


def test_without_ray_there_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^--engine ray needs Ray; .*pip install 'cxrbatch\[ray"):
        RayEngine(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize(
    "error", [Exception("The current node timed out during startup.\nMore."), ConnectionError()]
)
def test_a_ray_that_does_not_start_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, score: Callable[..., Summary], tmp_path: Path, error: Exception
) -> None:
    ray = pytest.importorskip("ray")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(CxrbatchError, match=r"^Ray cannot be started: [^\n]+; see its logs"):
        score(tmp_path / "results.parquet", RayEngine(None))

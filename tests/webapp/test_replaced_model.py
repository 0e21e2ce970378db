"""A checkpoint that is replaced while the server runs: scores and card are of the same file."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask

from cxrbatch.model.card import Card
from cxrbatch.model.network import build_model, save_checkpoint
from cxrbatch.model.predictor import load_model
from cxrbatch.webapp.app import close_app, create_app
from cxrbatch.webapp.security import allowed_hosts

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_checkpoint`, to be replaced."""
    return Path(shutil.copy(tiny_checkpoint, tmp_path / "model.safetensors"))


@pytest.fixture
def scorer(scored_folder: Path, checkpoint: Path) -> Iterator[Flask]:
    """An app that scores with `checkpoint`."""
    hosts = allowed_hosts("127.0.0.1")
    app = create_app(scored_folder, token=TOKEN, hosts=hosts, checkpoint=checkpoint)
    yield app
    close_app(app)


def score(app: Flask, film: Path) -> tuple[int, dict[str, Any]]:
    data = {"file": (io.BytesIO(film.read_bytes()), "x")}
    answer = app.test_client().post("/api/v1/score", data=data, headers=BEARER)
    return answer.status_code, answer.get_json()


def test_an_upload_is_scored_and_named_by_the_checkpoint_that_lies_there_now(
    scorer: Flask, checkpoint: Path, scored_folder: Path, tiny_card: Card
) -> None:
    film = scored_folder / "archive/a.png"
    assert score(scorer, film)[1]["model"] == "tiny"
    card = replace(tiny_card, name="newer", classes=("Yes", "No"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(21)
        save_checkpoint(checkpoint, model=build_model(card).eval(), card=card)
    status, answer = score(scorer, film)
    assert (status, answer["model"], answer["classes"]) == (200, "newer", ["Yes", "No"])
    expected = load_model(checkpoint).predict(film)
    assert answer["frames"][0]["probabilities"] == expected.probabilities
    assert "newer ·" in scorer.test_client().get("/upload", headers=BEARER).text


def test_an_upload_is_refused_where_the_checkpoint_is_gone_or_broken(
    scorer: Flask, checkpoint: Path, scored_folder: Path
) -> None:
    checkpoint.write_bytes(b"no checkpoint")
    status, answer = score(scorer, scored_folder / "archive/a.png")
    assert (status, set(answer)) == (422, {"error", "id"})
    checkpoint.unlink()
    status, answer = score(scorer, scored_folder / "archive/a.png")
    assert status == 422
    assert "cannot read checkpoint" in answer["error"]

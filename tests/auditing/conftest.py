"""Puts this folder's drawn films within reach."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
# Children import what was installed: the folder that the tests are called in has a `cxrbatch` of
# its own, which is not all of it.
os.environ["PYTHONSAFEPATH"] = "1"

from drawn_films import CLASSES, FINDER, write_films

from cxrbatch.auditing.audit import Audit, AuditListener
from cxrbatch.auditing.audit_plan import AuditRequest
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.input_gate import STEPS, FeatureStatistics, describe_features
from cxrbatch.model.network import build_model, save_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reports.audit_page import write_audit
from cxrbatch.scoring.run import ScoringOptions

AuditMaker = Callable[..., Audit]


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of 64 drawn films, 24 of them of the side test; not to be changed."""
    return write_films(tmp_path_factory.mktemp("drawn") / "films", "header", train=0, test=24)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights at 32 px, with statistics of its features."""
    gate = {"kinds": ["hand"], "threshold": 99.0, "flagged": {}}
    card = Card("random", "resnet18", CLASSES, Recipe(32), Normalisation(0.5, 0.25), gate=gate)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        model = build_model(card).eval()
    features = np.random.default_rng(0).random((200, 512)).astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    statistics = FeatureStatistics(
        *describe_features(features, np.arange(200) % len(CLASSES), classes=len(CLASSES)),
        np.zeros((2, 512), np.float32),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
        np.arange(STEPS, dtype=np.float32),
    )
    save_checkpoint(path, model=model, card=card, features=statistics)
    return path


@pytest.fixture
def audited_films(labels: Path, checkpoint: Path, tmp_path: Path) -> AuditMaker:
    """Audits `checkpoint` on the drawn films into `tmp_path`; arguments replace parts of that."""

    def make(
        listener: AuditListener | None = None, lungs: object = FINDER, **given: object
    ) -> Audit:
        values = {
            "checkpoint": checkpoint,
            "data": labels.parent,
            "labels": labels,
            "table": tmp_path / "audit.parquet",
            "scoring": ScoringOptions(workers=0, device="cpu", batch_size=8),
        }
        request = AuditRequest(**(values | given))
        page = request.table.with_suffix(".html")
        figures = request.table.with_suffix(".json")
        return write_audit(request, page, json_file=figures, listener=listener, lungs=lungs)

    return make

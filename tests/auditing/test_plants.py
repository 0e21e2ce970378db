"""Networks trained on drawn films with a planted shortcut: the audit names it, and nothing else."""

from pathlib import Path

import pytest
from drawn_films import FINDER, Plant, write_films

from cxrbatch.auditing.audit import Audit
from cxrbatch.auditing.audit_plan import AuditRequest
from cxrbatch.reports.audit_page import write_audit
from cxrbatch.scoring.run import ScoringOptions
from cxrbatch.training.train import train

pytestmark = pytest.mark.slow


def audit_of(folder: Path, plant: Plant) -> Audit:
    """Train on drawn films with a plant, and audit the network on the side test."""
    labels = write_films(folder / "films", plant)
    train(
        labels,
        folder / "m.safetensors",
        size=48,
        epochs=6,
        draws=160,
        batch_size=16,
        workers=0,
        device="cpu",
        progress=False,
    )
    request = AuditRequest(
        checkpoint=folder / "m.safetensors",
        data=folder / "films",
        table=folder / "audit.parquet",
        labels=labels,
        scoring=ScoringOptions(workers=0, device="cpu"),
    )
    return write_audit(request, folder / "audit.html", lungs=FINDER)


def named(audit: Audit) -> set[str]:
    """Names of the shortcuts; the network must have learned its task first."""
    assert (audit.whole.macro_auc.value or 0.0) > 0.9
    return {each.name for each in audit.verdict.accused}


def test_a_planted_marker_is_named(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, "marker")
    assert "corner or marker" in named(audit)
    areas = {each.name: each.figures.macro_auc.value or 0.0 for each in audit.treatments}
    assert areas["corners hidden"] < 0.7 < areas["corners only"]
    assert "corner or marker" in audit.verdict.text


def test_a_planted_border_is_named(tmp_path: Path) -> None:
    assert "border" in named(audit_of(tmp_path, "border"))


def test_a_planted_header_fact_is_named(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, "header")
    assert named(audit) == {"header facts", "device"}
    assert "manufacturer" in {f for b in audit.baselines for f in b.facts}


def test_a_clean_control_is_not_accused(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, "nothing")
    assert named(audit) == set()
    assert "No shortcut that this audit looks for is named" in audit.verdict.text

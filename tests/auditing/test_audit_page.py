"""The page of an audit in Chromium: no request, nothing that axe finds, foreign names as text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawn_films import CLASSES
from playwright.sync_api import Browser, Page

from cxrbatch.auditing.audit import Audit
from cxrbatch.auditing.treatments import TREATMENTS
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.network import build_model, save_checkpoint
from cxrbatch.model.preprocessing import Recipe

AuditMaker = Callable[..., Audit]
EVIL = "</title></style><script>alert(1)</script>'\" onload=a"


@pytest.fixture
def page_of(audited_films: AuditMaker, tmp_path: Path) -> Path:
    audited_films()
    return tmp_path / "audit.html"


@pytest.mark.parametrize("width", [360, 1280])
def test_it_asks_for_nothing_and_shows_each_film_under_each_treatment(
    browser: Browser, page_of: Path, width: int
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, java_script_enabled=False
    )
    page, asked, told = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.goto(page_of.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page_of.as_uri()]
    assert told == []
    assert page.locator("body").bounding_box()["width"] == width
    assert page.locator(".treated img").count() == len(CLASSES) * (1 + len(TREATMENTS))
    first = page.locator(".treated img").first
    assert first.evaluate("e => e.naturalWidth") == 32
    context.close()


def test_no_table_is_cut_off_on_paper(browser: Browser, page_of: Path) -> None:
    page = browser.new_page(viewport={"width": 688, "height": 1000})
    page.emulate_media(media="print")
    page.goto(page_of.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 688
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(
    browser: Browser, assert_accessible: Callable[[Page], None], page_of: Path, scheme: str
) -> None:
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(page_of.as_uri())
    assert_accessible(page)
    context.close()


def test_names_of_classes_and_sources_stay_text(
    browser: Browser, audited_films: AuditMaker, labels: Path, tmp_path: Path
) -> None:
    card = Card(EVIL, "resnet18", (CLASSES[0], EVIL), Recipe(32), Normalisation(0.5, 0.25))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_model(card).eval()
    save_checkpoint(tmp_path / "evil.safetensors", model=model, card=card)
    quoted = '"' + EVIL.replace('"', '""') + '"'
    text = labels.read_text().replace(CLASSES[1], quoted).replace("north", quoted)
    (tmp_path / "evil.csv").write_text(text)
    audited_films(checkpoint=tmp_path / "evil.safetensors", labels=tmp_path / "evil.csv")
    page, told = browser.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("dialog", lambda dialog: told.append(dialog.message))
    page.goto((tmp_path / "audit.html").as_uri())
    assert told == []
    assert page.locator("script").count() == 0
    assert EVIL in page.locator("#pictures").locator("..").inner_text()
    page.close()

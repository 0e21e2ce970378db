"""The page in Chromium: it asks for nothing, says nothing in the console, and all can use it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from cxrbatch import cli

Check = Callable[[Page], None]


@pytest.mark.parametrize("width", [360, 1280])
def test_it_asks_for_nothing_and_fits_without_javascript(
    browser: Browser, study_page: Path, width: int
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, java_script_enabled=False
    )
    page, asked, told = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("dialog", lambda dialog: told.append(dialog.message))
    page.goto(study_page.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [study_page.as_uri()]
    assert told == []
    assert page.locator("body").bounding_box()["width"] == width
    heat = page.locator(".heat").first
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.5"
    page.get_by_label("25 %").check()
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.25"
    page.locator(".films input").first.press("Space")
    assert heat.evaluate("e => getComputedStyle(e).visibility") == "hidden"
    context.close()


def test_no_table_is_cut_off_on_paper(browser: Browser, study_page: Path) -> None:
    # A4 between margins of 14 mm.
    page = browser.new_page(viewport={"width": 688, "height": 1000})
    page.emulate_media(media="print")
    page.goto(study_page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 688
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(
    browser: Browser, assert_accessible: Check, study_page: Path, scheme: str
) -> None:
    # axe is a script, which the page's own policy forbids.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(study_page.as_uri())
    assert_accessible(page)
    context.close()


def test_axe_finds_no_violation_in_a_comparison(
    browser: Browser, assert_accessible: Check, make_table: Callable[..., Path]
) -> None:
    table = str(make_table([(0, 0), (1, 0)] * 3))
    target = Path(table).with_name("compare.html")
    assert cli.main(["compare", table, table, "-o", str(target)]) == 0
    page = browser.new_page(bypass_csp=True)
    page.goto(target.as_uri())
    assert_accessible(page)
    page.close()


def test_hostile_names_open_nothing(browser: Browser, make_table: Callable[..., Path]) -> None:
    evil = "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>'\" onload=a"
    counts = []
    for name in ("benign", evil):
        table = make_table([(0, 0), (1, 1), (0, 1)] * 8, classes=("Normal", f"x{name}"))
        target = table.with_name("page.html")
        assert cli.main(["report", str(table), "-o", str(target), "--overwrite"]) == 0
        context = browser.new_context()
        page, told = context.new_page(), []
        page.on("console", lambda message, told=told: told.append(message.text))
        page.on("dialog", lambda dialog, told=told: told.append(dialog.message))
        page.goto(target.as_uri())
        assert told == []
        assert f"x{name}" in page.locator("#about + dl").inner_text()
        counts.append(page.locator("*").count())
        context.close()
    assert counts[0] == counts[1]

"""The app in Chromium as a person uses it; the console stays empty, no other site is contacted."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from cxrbatch.cli import main

TOKEN = "a-token-of-the-tests"

Check = Callable[[Page], None]
Served = Callable[..., AbstractContextManager[str]]
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def address(
    served: Served,
    scored_folder: Path,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Address of a server of a table, its report, a report with a script, and a broken table."""
    folder = tmp_path_factory.mktemp("browsed")
    table, report = folder / "results.parquet", folder / "results.html"
    shutil.copy(scored_folder / "results.parquet", table)
    assert main(["report", str(table), "-o", str(report)]) == 0
    script = "<script>document.title = 'ran'</script>"
    (folder / "tampered.html").write_text(report.read_text().replace("</main>", f"{script}</main>"))
    (folder / "ruin.parquet").write_bytes(b"PAR1")
    with served(folder, "--checkpoint", str(tiny_checkpoint)) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """Open a signed-in page; in the end check that the console is empty and no other site asked."""
    told: list[str] = []
    contexts = []

    def open_page(*, width: int = 1440, bypass: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, bypass_csp=bypass, base_url=address
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.extend(_foreign(request.url, address)))
        page.goto(f"/?token={TOKEN}")
        assert page.url == f"{address}/"
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []


def _foreign(url: str, address: str) -> list[str]:
    return [] if url.startswith((address, "data:", "blob:")) else [url]


def shown_levels(page: Page) -> list[int]:
    """Return red, green and blue, each summed over a square in the middle of the canvas."""
    # Onto a canvas of the test's own: Chromium complains where the page's own is read twice.
    script = """stage => new Promise(done => {
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const copy = document.createElement("canvas");
            copy.width = copy.height = 40;
            const context = copy.getContext("2d", {willReadFrequently: true});
            context.drawImage(stage, 20 - stage.width / 2, 20 - stage.height / 2);
            const sums = [0, 0, 0];
            const {data} = context.getImageData(0, 0, 40, 40);
            data.forEach((value, i) => { if (i % 4 < 3) sums[i % 4] += value; });
            done(sums);
        }));
    })"""
    found: list[int] = page.locator("#stage").evaluate(script)
    return found


def test_links_and_keys_lead_from_the_runs_to_an_image_and_its_neighbours(visit: Visit) -> None:
    page = visit()
    page.get_by_role("link", name="results.parquet").click()
    page.get_by_role("link", name="Rows", exact=True).click()
    page.locator("summary").click()
    page.get_by_label("Outcome").select_option("scored")
    page.get_by_role("button", name="Show").click()
    assert page.url.endswith("/rows?outcome=scored")
    page.get_by_role("link", name="a.png").click()
    page.wait_for_selector("#viewer[data-ready]")
    red, green, blue = shown_levels(page)
    assert red == green == blue > 0
    page.get_by_label("Heat map").select_option("COVID-19")
    page.wait_for_selector("#viewer[data-heat='COVID-19']")
    page.keyboard.press("h")
    page.get_by_label("Heat map").select_option("")
    page.locator("#stage").press("i")
    inverted = shown_levels(page)
    assert abs(inverted[0] + red - 255 * 1600) <= 1600
    page.keyboard.press("0")
    assert shown_levels(page) == [red, green, blue]
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/images/1?**")
    assert page.locator("h1").inner_text() == "b.dcm"
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/images/0?**")


def test_a_drag_changes_window_and_level_and_the_wheel_zooms(visit: Visit) -> None:
    page = visit()
    page.goto(page.locator("a", has_text="Rows").first.get_attribute("href") or "")
    page.get_by_role("link", name="b.dcm").click()
    page.wait_for_selector("#viewer[data-ready]")
    before = shown_levels(page)
    page.locator("#stage").hover()
    page.mouse.down()
    page.mouse.move(500, 300, steps=3)
    page.mouse.up()
    width, level = page.get_by_label("Window"), page.get_by_label("Level")
    assert (width.input_value(), level.input_value()) != ("256", "128")
    assert shown_levels(page) != before
    page.get_by_role("button", name="Reset").click()
    assert (width.input_value(), level.input_value()) == ("256", "128")
    assert shown_levels(page) == before
    page.locator("#stage").hover()
    page.mouse.wheel(0, -600)
    assert shown_levels(page) != before


@pytest.mark.parametrize("name", ["a.png", "b.dcm"])
def test_an_upload_is_scored(visit: Visit, scored_folder: Path, name: str) -> None:
    page = visit()
    page.get_by_role("link", name="Score a file").click()
    page.get_by_label("Drop a file").set_input_files(scored_folder / "archive" / name)
    page.get_by_role("button", name="Score", exact=True).click()
    page.wait_for_selector("#viewer[data-ready]", timeout=60_000)
    assert page.locator(".verdict").count() == 1
    page.get_by_label("Heat map").select_option("Normal")
    page.wait_for_selector("#viewer[data-heat='Normal']")


def test_a_report_opens(visit: Visit) -> None:
    page = visit()
    page.get_by_role("link", name="results.parquet").click()
    page.get_by_role("link", name="Report results.html").click()
    assert "tiny" in page.locator("main").inner_text()
    assert page.locator("svg").count() > 0


def test_a_script_in_a_report_does_not_run(browser: Browser, address: str) -> None:
    context = browser.new_context(base_url=address)
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.goto(f"/?token={TOKEN}")
    page.get_by_role("link", name="results.parquet").click()
    page.get_by_role("link", name="Report tampered.html").click()
    page.wait_for_load_state()
    assert page.locator("main script").count() == 1
    assert page.title() != "ran"
    assert "script" in "".join(told)  # Chromium says what it did not run
    context.close()


def test_a_browser_without_the_token_gets_the_sign_in_page(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    assert page.title() == "Sign in · cxrbatch"
    for token, title in (("wrong-wrong-wrong", "Sign in · cxrbatch"), (TOKEN, "Runs · cxrbatch")):
        page.get_by_label("Token").fill(token)
        with page.expect_navigation():
            page.get_by_role("button", name="Sign in").click()
        assert page.title() == title
    assert page.url == f"{address}/"
    page.close()


def pages_of(page: Page) -> list[str]:
    """Return an address of each kind of page."""
    run = page.get_by_role("link", name="results.parquet").get_attribute("href")
    rows = [f"{run}/rows", f"{run}/rows?layout=sheet", f"{run}/rows?path=absent"]
    images = [f"{run}/images/{number}" for number in (0, 2)]
    return ["/", str(run), *rows, *images, "/upload"]


def test_axe_finds_no_violation(
    visit: Visit, scored_folder: Path, assert_accessible: Check
) -> None:
    # axe is a script, which the pages' own policy forbids.
    page = visit(bypass=True)
    for url in pages_of(page):
        page.goto(url)
        for closed in page.locator("details:not([open]) summary").all():
            closed.click()
        assert_accessible(page)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert_accessible(page)
    page.keyboard.press("Escape")
    for name, shown in (("b.dcm", "#viewer[data-ready]"), ("c.png", "#result .alert")):
        page.get_by_label("Drop a file").set_input_files(scored_folder / "archive" / name)
        page.get_by_role("button", name="Score", exact=True).click()
        page.wait_for_selector(shown, timeout=60_000)
        assert_accessible(page)


def test_axe_finds_no_violation_on_error_pages(
    browser: Browser, address: str, assert_accessible: Check
) -> None:
    # Chromium reports each refusal in the console, so these pages are not visited as the others.
    context = browser.new_context(base_url=address, bypass_csp=True)
    page = context.new_page()
    for url in ("/", "/?token=wrong", f"/?token={TOKEN}", "/absent"):
        page.goto(url)
        assert_accessible(page)
    run = page.request.get("/api/v1/runs").json()["runs"]
    (broken,) = [found["id"] for found in run if "broken" in found]
    page.goto(f"/runs/{broken}")
    assert "ruin.parquet" in page.locator("main").inner_text()
    assert_accessible(page)
    context.close()


@pytest.mark.parametrize("width", [360, 1440])
def test_every_page_fits_the_width_of_the_window(visit: Visit, width: int) -> None:
    page = visit(width=width)
    for url in pages_of(page):
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") == width, url

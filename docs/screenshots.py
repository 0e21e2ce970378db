"""Make the pictures of README.md from the sample archive: a report, and an image in the web app.

    python docs/screenshots.py

Needs playwright and Chromium. The sample archive's films are drawn by the program itself.
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright

HERE = Path(__file__).parent
SIZE = {"width": 1200, "height": 800}
COLOURS = 160
TOKEN = "a-token-of-the-pictures"
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


def cxrbatch(*words: str | Path) -> None:
    """Run a command; 3 is the exit code of `score` for an archive with broken files in it."""
    command = [sys.executable, "-P", "-m", "cxrbatch", *map(str, words)]
    if subprocess.run(command).returncode not in (0, 3):
        sys.exit(1)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of a folder, by its address."""
    words = ["-P", "-m", "cxrbatch", "serve", str(folder), "--port", "0", "--token", TOKEN]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().partition("/?")[0]
        finally:
            server.terminate()


def save(page: Page, name: str) -> None:
    """Write what is seen of a page, in few colours: a film as it is would be a large file."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS).save(HERE / name, optimize=True)


def picture_report(context: BrowserContext, report: Path) -> None:
    """The report, from where it says how good the scores are."""
    page = context.new_page()
    page.goto(report.as_uri())
    page.locator("h2", has_text="Results").first.evaluate("heading => heading.scrollIntoView()")
    save(page, "report.png")


def picture_image(context: BrowserContext, address: str) -> None:
    """The surest image of a finding, under its heat map."""
    page = context.new_page()
    page.goto(f"{address}/?token={TOKEN}")
    (run,) = json.loads(context.request.get(f"{address}/api/v1/runs").text())["runs"]
    rows = f"{address}/runs/{run['id']}/rows?view=PA&sort=-p_COVID-19"
    page.goto(rows)
    page.locator(".rows .path a").first.click()
    page.wait_for_selector("#viewer[data-ready]")
    page.keyboard.press("h")
    page.wait_for_selector("#viewer[data-heat]")
    save(page, "image.png")


def main() -> None:
    """Score the sample archive, and picture what comes of it."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        archive, table = Path(name) / "archive", Path(name) / "results.parquet"
        report = table.with_name("report.html")
        cxrbatch("sample", archive)
        cxrbatch("score", archive, "-o", table)
        cxrbatch("report", table, "--labels", archive / "labels.csv", "-o", report)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        context = browser.new_context(viewport=SIZE)
        picture_report(context, report)
        with served(table.parent) as address:
            picture_image(context, address)
        browser.close()


if __name__ == "__main__":
    main()

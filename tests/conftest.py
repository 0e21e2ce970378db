"""What the tests of several folders share: a checkpoint, image files, older tables, a browser."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cxrbatch import cli
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.network import build_model, save_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.results.columns import PROVENANCE_KEY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Install = Callable[[Callable[..., object]], None]
PngMaker = Callable[[Path, np.ndarray], Path]
Ager = Callable[..., None]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads that wait for each other take most of a test's time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_card() -> Card:
    """A card of three classes at 64 px."""
    return Card(
        name="tiny",
        architecture="resnet18",
        classes=("Normal", "COVID-19", "Viral Pneumonia"),
        recipe=Recipe(size=64),
        normalisation=Normalisation(mean=0.5, std=0.25),
        training={"data": "none: random weights"},
        limits=("Knows nothing.",),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_card: Card) -> Path:
    """A checkpoint of `tiny_card` with seeded random weights; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        model = build_model(tiny_card).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, model=model, card=tiny_card)
    return path


@pytest.fixture(scope="session")
def write_png() -> PngMaker:
    """Write grey levels, shape (rows, columns), uint8 or uint16, as a PNG; folders are made."""

    def write(path: Path, grey: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(path, format="PNG")
        return path

    return write


@pytest.fixture(scope="session")
def write_as_older() -> Ager:
    """Write a results table anew, as a version did that wrote schema 2.2, 2.1 or 2.0."""

    def write(path: Path, version: str = "2.1", **changed: object) -> None:
        table = pq.read_table(path)
        made = json.loads(pq.read_metadata(path).metadata[PROVENANCE_KEY])
        older = dict(zip(table.column_names, table.columns, strict=True))
        del older["ood_kind"]
        if version != "2.2":
            numbers = [text and int(text, 16) for text in older["dhash"].to_pylist()]
            older["dhash"] = pa.array(numbers, pa.uint64())
            del older["accession_key"]
            renamed = {"image_flags": "flags"}
            older = {renamed.get(name, name): column for name, column in older.items()}
        text = json.dumps({**made, "schema_version": version, **changed})
        pq.write_table(pa.table(older).replace_schema_metadata({PROVENANCE_KEY: text}), path)

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium, without a window and without requests of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def assert_accessible() -> Callable[["Page"], None]:
    """Fails where axe finds a violation on a page, whose own policy has to be bypassed for it."""
    from axe_playwright_python.sync_playwright import Axe

    def check(page: "Page") -> None:
        result = Axe().run(page)
        assert result.violations_count == 0, f"{page.url} {result.generate_report()}"

    return check


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a function into the group as the command `probe`."""

    def as_probe(function: Callable[..., object]) -> None:
        module = ModuleType("probe_command")
        vars(module)["command"] = click.command("probe")(function)
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", ("probe_command:command", "Probe."))

    return as_probe

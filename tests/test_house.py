"""The layout that the project promises: the import law, the wheel, and help that comes quickly."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from cxrbatch import cli

TOP = Path(__file__).parents[1]
PARTS = [name for name in ("training", "reports", "webapp") if (TOP / name).is_dir()]
MOST_WEIGHTS = 25 * 1024 * 1024
MOST_LUNG_WEIGHTS = 1024 * 1024

GROUND = {"", "errors", "files", "process"}
LIBRARY = {"reading", "model", "lungs", "results", "workers", "scoring", "sample", "auditing"}
EDGE = {"options"}
LAW = {
    "": {"errors", *LIBRARY, "training", "reports"},  # by name, when first used
    "errors": set(),
    "files": {"errors"},
    "process": {"errors"},
    "options": {"errors", "process", "results"},  # the last inside a function alone
    "reading": GROUND,
    "model": GROUND | {"reading"},
    "lungs": GROUND | {"reading", "model"},
    "results": GROUND | {"reading"},
    "workers": GROUND | {"reading"},
    "scoring": GROUND | {"reading", "model", "results", "workers"},
    "sample": GROUND | {"reading", "model", "results"},
    "auditing": GROUND | {"reading", "model", "lungs", "results", "workers", "scoring"},
    "speed": GROUND | LIBRARY,
    "commands": GROUND | LIBRARY | EDGE | {"speed"},
    "cli": GROUND,  # it reaches the commands and the three by strings alone
    "__main__": {"cli"},
    "training": GROUND | LIBRARY | EDGE,
    "reports": GROUND | LIBRARY | EDGE,
    "webapp": GROUND | LIBRARY | EDGE,
}
"""What each piece may import, itself aside; "" is the package's own `__init__`."""


def sources(top: Path) -> dict[str, Path]:
    """Module name -> file, with the folders at the top under the one import name.

    Recipes are scripts for a checkout and go into no package.
    """
    found = {}
    for folder in ("cxrbatch", *PARTS):
        prefix = [] if folder == "cxrbatch" else ["cxrbatch"]
        for path in sorted((top / folder).rglob("*.py")):
            if path.parent.name == "recipes":
                continue
            parts = list(path.relative_to(top).with_suffix("").parts)
            name = ".".join(prefix + parts).removesuffix(".__init__")
            found[name] = path
    return found


def imports_of(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """All that a module imports, also inside functions and under TYPE_CHECKING."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1]
            origin = ".".join([*(start if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                below = f"{origin}.{alias.name}"
                yield below if below in modules else origin


def piece_of(module: str) -> str:
    """`cxrbatch.reading.readings` -> `reading`; the package's own `__init__` -> ``."""
    return module.removeprefix("cxrbatch").lstrip(".").partition(".")[0]


def breaches(modules: Mapping[str, Path]) -> list[str]:
    """Each import that the law forbids, as `importer -> imported`."""
    return [
        f"{name} -> {imported}"
        for name, path in modules.items()
        for imported in imports_of(name, path, modules)
        if imported.partition(".")[0] == "cxrbatch"
        if piece_of(imported) not in LAW[piece_of(name)] | {piece_of(name)}
    ]


def write_house(top: Path, files: Mapping[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return sources(top)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no earlier build can add to it."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, copy)
    for folder in ("cxrbatch", *PARTS):
        shutil.copytree(TOP / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(copy / "out")]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", *options, str(copy)], check=True
    )
    (built,) = (copy / "out").iterdir()
    return built


def test_the_import_law_holds() -> None:
    assert breaches(sources(TOP)) == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether there is a file, and in it the heading, if the link names one."""
    name, _, place = link.partition("#")
    file = page.parent / name if name else page
    if not file.is_file() or not place:
        return file.is_file()
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return place in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs", "benchmarks"])
def test_links_lead_somewhere(page: str) -> None:
    pages = sorted((TOP / page).glob("*.md")) if (TOP / page).is_dir() else [TOP / page]
    links = [(p, link) for p in pages for link in re.findall(r"\]\(([^)\s]+)\)", p.read_text())]
    assert [link for p, link in links if ":" not in link and not leads_somewhere(p, link)] == []
    assert links or page != "README.md"


def test_no_two_modules_import_each_other() -> None:
    modules = sources(TOP)
    graph = {name: set(imports_of(name, path, modules)) for name, path in modules.items()}
    del graph["cxrbatch"]  # others take the version from it, and it imports them when they are used
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' <- '.join(circle.args[1])}")


@pytest.mark.parametrize("name", [name for name in sources(TOP) if piece_of(name) == "reading"])
def test_reading_knows_no_torch(name: str) -> None:
    modules = sources(TOP)
    tops = {imported.partition(".")[0] for imported in imports_of(name, modules[name], modules)}
    assert not tops & {"torch", "torchvision"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cxrbatch/reading/dicom/reader.py", "from cxrbatch.model import resnet"),
        ("cxrbatch/reading/dicom/reader.py", "from ...scoring.engine import score"),
        ("cxrbatch/model/network.py", "def f():\n    import cxrbatch.results.table"),
        ("cxrbatch/scoring/engine.py", "import cxrbatch.training.loop"),
        ("cxrbatch/commands/score.py", "from cxrbatch.cli import main"),
        ("cxrbatch/cli.py", "from .commands import score"),
        ("training/loop.py", "from cxrbatch.webapp import app"),
    ],
)
def test_a_breach_of_the_law_is_seen(tmp_path: Path, file: str, text: str) -> None:
    assert len(breaches(write_house(tmp_path, {file: text}))) == 1


def test_what_the_law_allows_is_no_breach(tmp_path: Path) -> None:
    house = {
        "cxrbatch/reading/readings.py": "from cxrbatch.errors import CxrbatchError",
        "cxrbatch/scoring/engine.py": "from ..model.resnet import build\nfrom . import shards",
        "cxrbatch/scoring/table_writer.py": "import torch, cxrbatch.results.table",
        "training/loop.py": "from cxrbatch.scoring import engine\nfrom .split import split",
    }
    assert breaches(write_house(tmp_path, house)) == []


def test_every_folder_of_modules_is_a_listed_package() -> None:
    settings = configparser.ConfigParser()
    settings.read(TOP / "setup.cfg")
    listed = settings["options"]["packages"].split()
    modules = sources(TOP)
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    homes = {name if name in packages else name.rpartition(".")[0] for name in modules}
    assert sorted(listed) == sorted(homes) == sorted(packages)


def test_the_wheel_holds_the_one_import_name_and_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"cxrbatch"}
    expected = {
        "/".join([*name.split("."), *(["__init__"] if path.name == "__init__.py" else [])]) + ".py"
        for name, path in sources(TOP).items()
    }
    assert {name for name in names if name.endswith(".py")} == expected
    assert "cxrbatch/py.typed" in names


def test_the_wheel_carries_each_bundled_model_within_its_limit(wheel: Path) -> None:
    bundled = {path.name for path in (TOP / "cxrbatch").glob("*/weights/*.safetensors")}
    with zipfile.ZipFile(wheel) as archive:
        sizes = {
            Path(entry.filename).name: entry.file_size
            for entry in archive.infolist()
            if entry.filename.endswith(".safetensors")
        }
    assert set(sizes) == bundled
    assert all(size <= MOST_WEIGHTS for size in sizes.values())
    assert sizes["lungs.safetensors"] <= MOST_LUNG_WEIGHTS


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_comes_quickly_and_without_torch(command: str) -> None:
    words = [*filter(None, [command]), "--help"]
    code = f"import sys; from cxrbatch.cli import main; c = main({words!r}); "
    code += "sys.exit(c or 99 * ('torch' in sys.modules))"
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr.decode()[-300:] or "torch is imported"
        if seconds[-1] < 0.3:
            return
    pytest.fail(f"the help took {min(seconds):.2f} s")


def test_the_license_and_the_readme_go_with_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
        assert any(name.endswith("LICENSE") for name in archive.namelist())
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert "not a medical device" in text

"""What keeps the code readable: short modules and functions, names of one meaning, maps."""

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
FOLDERS = ("cxrbatch", "training", "reports", "webapp")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (TOP / folder).rglob("*.py")
    if path.parent.name != "recipes"
)
ROOMS = [path for path in MODULES if path.name == "__init__.py" and path.parent.name != "cxrbatch"]

MOST_LINES = 350
MEDIAN_FUNCTION = 10
LONG_FUNCTION = 30
"""Lines that nine of ten functions do not exceed."""

SAME_MEANING = {"blueprint", "command", "module command", "module dataset"}
"""Public names that several modules define by convention, each with the same meaning. A module of
`cxrbatch/commands` has the name of its command, whatever modules the library has."""


def is_type_variable(node: ast.Assign | ast.AnnAssign) -> bool:
    """Whether an assignment makes a type variable, which stands for any type."""
    return isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar"


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the public classes, functions and constants that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not is_type_variable(node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def shared_names(modules: dict[str, str]) -> dict[str, list[str]]:
    """Return each public name, or name of a module, that stands in several of these sources."""
    places = defaultdict(list)
    for path, source in modules.items():
        for name in set(defined(ast.parse(source))):
            places[name].append(path)
        if not path.endswith("__init__.py") and "/commands/" not in path:
            places[f"module {Path(path).stem}"].append(path)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_module_is_long() -> None:
    lengths = {str(path.relative_to(TOP)): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_functions_are_short() -> None:
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    )
    assert statistics.median(lengths) <= MEDIAN_FUNCTION
    assert statistics.quantiles(lengths, n=10)[-1] <= LONG_FUNCTION


def test_a_name_has_one_meaning() -> None:
    shared = shared_names({str(path.relative_to(TOP)): path.read_text() for path in MODULES})
    assert {name: found for name, found in shared.items() if name not in SAME_MEANING} == {}


def test_a_shared_name_is_seen() -> None:
    sources = {
        "a/x.py": "class Film: ...",
        "b/x.py": "Film: int = 1\n_own = 2",
        "c/y.py": "_own = 3",
    }
    assert set(shared_names(sources)) == {"Film", "module x"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: str(path.parent.relative_to(TOP)))
def test_the_map_of_a_room_names_each_module(room: Path) -> None:
    text = ast.get_docstring(ast.parse(room.read_text())) or ""
    modules = {path.stem for path in room.parent.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in room.parent.glob("*/__init__.py")}
    missing = {name for name in modules | folders if name not in text}
    assert not missing

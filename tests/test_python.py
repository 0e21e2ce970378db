"""The package as Python callers see it: lazy, typed, and the same as the commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cxrbatch

TOP = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "pandas", "pyarrow", "numpy", "flask", "sklearn", "pydicom")


def test_importing_the_package_imports_no_library() -> None:
    code = f"import sys, cxrbatch; assert not set({HEAVY!r}) & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_every_public_name_is_there_and_listed() -> None:
    for name in cxrbatch.__all__:
        assert getattr(cxrbatch, name) is not None
    assert dir(cxrbatch) == sorted(cxrbatch.__all__)


def test_an_unknown_name_is_no_attribute() -> None:
    name = "predict"
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        getattr(cxrbatch, name)


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    tree = ast.parse((TOP / "cxrbatch" / "__init__.py").read_text())
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"cxrbatch.{home}" for name, home in cxrbatch._MODULES.items()}
    assert {*seen, "__version__"} == set(cxrbatch.__all__)


@pytest.mark.parametrize("name", cxrbatch.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    text = (TOP / "docs" / "python.md").read_text()
    assert name == "__version__" or name in text

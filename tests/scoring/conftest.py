"""Puts this folder's poisons within reach of its tests, and gives them archives and runs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One patient secret for all runs of a session, and not the user's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[None]]:
    """Give a context in which no file can take a certain name, as the disk is full."""
    replaced = os.replace

    @contextmanager
    def full(name: str) -> Iterator[None]:
        def replace(old: Path, new: Path) -> None:
            if new.name == name:
                raise OSError(28, "No space left on device")
            replaced(old, new)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace)
            yield

    return full

"""How far a report is."""

from typing import Protocol


class Progress(Protocol):
    """Told of each step as it begins."""

    def step(self, what: str) -> None:
        """Something begins, named as a person would."""

"""Progress objects of the tests."""

from cxrbatch.scoring.run import Progress


class Silent(Progress):
    """Progress that is kept for the tests to look at."""

    def __init__(self) -> None:
        self.files = 0
        self.done = 0

    def start(self, files: int, *, done: int) -> None:
        """Note the number of files."""
        self.files = files
        self.done = done

    def advance(self, files: int) -> None:
        """Add up the files that are done."""
        self.done += files

"""A reader of inputs that some bytes end the process of; child processes import this."""

import os
import time
from dataclasses import dataclass

from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.training.cache import DecodedFile, InputReader


@dataclass(frozen=True, slots=True)
class PoisonedInputReader(InputReader):
    """Crashes and hangs on bytes that say so, as a broken decoder would."""

    def _decode(self, key: bytes, data: bytes, options: ReadingOptions) -> DecodedFile:
        if data == b"crash":
            os.abort()
        if data == b"hang":
            time.sleep(600)
        return super(PoisonedInputReader, self)._decode(key, data, options)


@dataclass(frozen=True, slots=True)
class RefusingInputReader(InputReader):
    """Crashes on all that has to be decoded."""

    def _decode(self, key: bytes, data: bytes, options: ReadingOptions) -> DecodedFile:
        os.abort()

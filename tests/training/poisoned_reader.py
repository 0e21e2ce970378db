"""A reader of inputs that some bytes end the process of; child processes import this."""

import os
import time
from dataclasses import dataclass

from cxrbatch.model.preprocessing import ModelInput
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.training.cache import InputReader


@dataclass(frozen=True, slots=True)
class PoisonedInputReader(InputReader):
    """Crashes and hangs on bytes that say so, as a broken decoder would."""

    def _decode(self, data: bytes, options: ReadingOptions) -> tuple[Outcome, ModelInput | None]:
        if data == b"crash":
            os.abort()
        if data == b"hang":
            time.sleep(600)
        return super(PoisonedInputReader, self)._decode(data, options)


@dataclass(frozen=True, slots=True)
class RefusingInputReader(InputReader):
    """Crashes on all that has to be decoded."""

    def _decode(self, data: bytes, options: ReadingOptions) -> tuple[Outcome, ModelInput | None]:
        os.abort()

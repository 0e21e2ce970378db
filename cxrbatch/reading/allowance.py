"""What the claim of a header allows: refused beyond the limit, and memory to match within it."""

from collections.abc import Callable

from cxrbatch.reading.outcomes import Outcome, ReadingError

# JPEG 2000 takes up to 6 bytes a sample, by measurement; all others take less.
_BYTES_BESIDE = 256 << 20
_BYTES_PER_SAMPLE = 8

_allow: Callable[[int], object] | None = None


def memory_for(samples: int) -> int:
    """Bytes that reading an image may take, beyond what the process has."""
    return _BYTES_BESIDE + _BYTES_PER_SAMPLE * samples


def confine_by(allow: Callable[[int], object]) -> None:
    """Let a function, which is given bytes, limit the memory of this process for each image."""
    global _allow
    _allow = allow


def claim(samples: int, *, limit: int) -> None:
    """Hear what a header claims, before anything is decoded.

    Args:
        samples: Frames x rows x columns x samples per pixel.
        limit: The most that is decoded.

    Raises:
        ReadingError: `too_large`.
    """
    if samples > limit:
        detail = f"the header claims {samples} samples, over the limit of {limit}"
        raise ReadingError(Outcome.TOO_LARGE, detail)
    if _allow is not None:
        _allow(memory_for(samples))

"""What every refusal of a checkpoint must be."""

from collections.abc import Callable

import pytest

from cxrbatch.errors import CheckpointError


def refused(call: Callable[[], object]) -> str:
    """The message of the CheckpointError that `call` must raise, checked to be one line."""
    with pytest.raises(CheckpointError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message

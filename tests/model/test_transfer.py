"""Inputs arrive as they are, filled up with black; results come back as they were."""

import numpy as np
import pytest
import torch

from cxrbatch.model.inference import Transfer

GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
)


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def test_a_batch_is_filled_up_with_black(device: torch.device) -> None:
    inputs = np.random.default_rng(0).integers(1, 256, (3, 8, 8), dtype=np.uint8)
    sent = Transfer(device).send(inputs, batch_size=5)
    assert (sent.shape, sent.dtype, sent.device.type) == ((5, 1, 8, 8), torch.uint8, device.type)
    assert np.array_equal(sent[:3, 0].cpu().numpy(), inputs)
    assert not sent[3:].any()


def test_a_full_batch_arrives_from_any_memory(device: torch.device) -> None:
    inputs = np.random.default_rng(2).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    given = [inputs]
    if device.type == "cuda":
        given.append(torch.from_numpy(inputs).pin_memory().numpy())
    for images in given:
        sent = Transfer(device).send(images, batch_size=4)
        assert (sent.shape, sent.dtype, sent.device.type) == (
            (4, 1, 8, 8),
            torch.uint8,
            device.type,
        )
        assert np.array_equal(sent[:, 0].cpu().numpy(), inputs)


def test_results_come_back_whole_however_many_are_on_their_way(device: torch.device) -> None:
    transfer = Transfer(device)
    batches = np.random.default_rng(1).integers(0, 256, (12, 4, 64, 64), dtype=np.uint8)
    waiting = []
    for batch in batches:
        sent = transfer.send(batch, batch_size=4)
        waiting.append(transfer.fetch([sent[:, 0], sent.float().mean((1, 2, 3))]))
    for batch, wait in zip(batches, waiting, strict=True):
        images, means = wait()
        assert np.array_equal(images, batch)
        np.testing.assert_allclose(means, batch.mean((1, 2)), rtol=1e-5)

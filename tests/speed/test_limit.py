"""The limit is that of the busiest; on a CPU codec and forward pass take turns."""

import pytest

from cxrbatch.speed.machine import Capacities, Demands
from cxrbatch.speed.measuring import Measurement


def measured(*, on_gpu: bool, disk: float | None) -> Measurement:
    """An image of 1 MB that needs 20 ms of the codec and 5 ms of the model."""
    return Measurement(
        device="one of the tests",
        on_gpu=on_gpu,
        precision="fp32",
        capacities=Capacities(cores=2, gemm={"fp32": 1e11}, disk=disk, copy=None),
        demands=Demands(kinds={"PNG": 1}, bytes=1e6, decode=0.02, forward=0.005, operations=1e9),
        images=60,
        seconds=2.0,
    )


def test_on_a_cpu_codec_and_forward_pass_add_up() -> None:
    found = measured(on_gpu=False, disk=None)
    assert found.limit == pytest.approx(1 / 0.025)
    assert found.bottleneck == "codec"
    assert found.rate == 30.0


def test_a_gpu_works_beside_the_codec() -> None:
    assert measured(on_gpu=True, disk=None).limit == pytest.approx(1 / 0.02)


def test_a_slow_disk_is_the_limit() -> None:
    found = measured(on_gpu=False, disk=10e6)
    assert found.limit == pytest.approx(10.0)
    assert found.bottleneck == "disk"

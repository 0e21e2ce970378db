"""The average of the weights follows its formula, and the schedule its shape."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from trainees import new_model

from cxrbatch.training.optimisation import new_average, new_optimiser, new_schedule


def test_the_average_follows_its_formula_and_statistics_are_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = new_average(model, decay=0.6)
    expected = None
    for step, value in enumerate([1.0, 3.0, -2.0, 0.5, 4.0, 1.0, 2.0, -7.0, 5.0, 6.0, 1.0, 9.0]):
        nn.init.constant_(model[0].weight, value)
        model[1].running_mean.fill_(value)
        average.update_parameters(model)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        weight = average.module[0].weight.detach()
        torch.testing.assert_close(weight, torch.full((2, 2), expected))
        assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert not average.module.training


def test_the_rate_rises_then_falls_to_next_to_nothing() -> None:
    optimiser = new_optimiser(new_model(), learning_rate=0.5, weight_decay=0.0)
    schedule = new_schedule(optimiser, steps=40, warmup=0.25)
    rates = []
    for _ in range(40):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == 0.5
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.002


def test_only_filters_and_the_head_decay() -> None:
    model = new_model()
    optimiser = new_optimiser(model, learning_rate=1.0, weight_decay=0.1)
    decayed, others = optimiser.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))

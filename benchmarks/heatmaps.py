"""The share of the scoring time that heat maps take: made, quantised, and given to the rows.

The same batches are scored with and without them, in turn, and the medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cxrbatch.model.batch_scores import quantise
from cxrbatch.model.checkpoint import bundled_checkpoint, load_checkpoint
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE
from cxrbatch.model.network import model_of


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print both times and the share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    model = model_of(checkpoint.tensors, checkpoint.card.architecture)
    model, size = model.to(memory_format=torch.channels_last), checkpoint.card.recipe.size
    batch = torch.randn(DEFAULT_BATCH_SIZE, 1, size, size)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def without() -> None:
        model(batch)

    def with_maps() -> None:
        levels, _ = quantise(model.score(batch).heatmaps)
        for row in levels.numpy():
            row.tobytes()

    with torch.inference_mode():
        without(), with_maps()
        pairs = [(timed(without), timed(with_maps)) for _ in range(options.rounds)]
    plain, full = (statistics.median(side) for side in zip(*pairs, strict=True))
    share = statistics.median(b / a for a, b in pairs) - 1.0
    print(
        f"a batch of {DEFAULT_BATCH_SIZE} at {size} px: {1000 * plain:.1f} ms without, "
        f"{1000 * full:.1f} ms with heat maps; they cost {100 * share:.2f} %"
    )


if __name__ == "__main__":
    main()

"""What more data and time would bring: the same training on ever larger shares of the patients.

The shares are nested and drawn class by class, whole patients each; every training draws as many
images, so that the larger share has no more steps. The AUC of each epoch is the curve over time.
Figures are of validation: test is for the model that is kept, once. Choose `--draws` so that the
smallest share is seen often enough.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cxrbatch.model.checkpoint import read_card
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_lists import read_labels
from cxrbatch.results.statistics.intervals import balanced_accuracy, one_vs_rest_auc
from cxrbatch.results.table import open_table


def reduced(
    labelled: Sequence[LabelledFile], share: float, order: dict[tuple[str, str], float]
) -> list[LabelledFile]:
    """Keep a share of the training patients of each class, and all of the other sides."""
    return [
        item
        for item in labelled
        if item.split != "train" or order[item.label, item.patient or item.path] < share
    ]


def trained(labels: Path, folder: Path, arguments: Sequence[str]) -> Path:
    """Train on a labels file; gives the results table."""
    output = folder / "model.safetensors"
    command = [sys.executable, "-P", "-m", "cxrbatch", "train", str(labels), "-o", str(output)]
    subprocess.run([*command, "--overwrite", *arguments], check=True, stderr=subprocess.DEVNULL)
    return folder / "model.results.parquet"


def main() -> None:
    """Train on each share and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, help="a CSV with the columns patient and split")
    parser.add_argument("--shares", default="0.125,0.25,0.5,1")
    parser.add_argument("--seed", type=int, default=0)
    options, arguments = parser.parse_known_args()
    labelled = read_labels(options.labels)
    chance = random.Random(options.seed)
    order = {
        key: chance.random()
        for key in sorted({(item.label, item.patient or item.path) for item in labelled})
    }
    root = ["--root", str(options.labels.resolve().parent)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for share in map(float, options.shares.split(",")):
            kept = reduced(labelled, share, order)
            with (folder / "labels.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(asdict(kept[0])))
                writer.writeheader()
                writer.writerows(asdict(item) for item in kept)
            table = open_table(trained(folder / "labels.csv", folder, [*root, *arguments]))
            names = [f"p_{c}" for c in table.classes]
            rows = table.read(["truth", "split", "outcome", *names]).to_pylist()
            val = [r for r in rows if r["split"] == "val" and r["outcome"] == "scored"]
            truth = np.array([table.classes.index(row["truth"]) for row in val])
            probabilities = np.array([[row[name] for name in names] for row in val])
            counts = [sum(i.split == "train" and i.label == c for i in kept) for c in table.classes]
            areas = one_vs_rest_auc(truth, probabilities)
            history = read_card(folder / "model.safetensors").training["history"]
            print(
                f"share {share:g}: "
                + ", ".join(
                    f"{c} {n} images, AUC {a:.4f}"
                    for c, n, a in zip(table.classes, counts, areas, strict=True)
                    if a is not None
                )
                + f"; balanced accuracy {balanced_accuracy(truth, probabilities.argmax(1)):.3f}"
                + "; macro AUC by epoch "
                + " ".join(f"{epoch['macro_auc']:.3f}" for epoch in history),
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Balanced accuracy and AUC of a results table against a label file, for one split or all of it."""

import argparse
from pathlib import Path

import numpy as np

from cxrbatch.results.label_lists import read_labels
from cxrbatch.results.label_names import SPLITS
from cxrbatch.results.statistics import intervals as metrics
from cxrbatch.results.table import open_table


def main() -> None:
    """Join by path and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--split", choices=SPLITS)
    options = parser.parse_args()
    table = open_table(options.table)
    labels = {
        item.path: item.label
        for item in read_labels(options.labels)
        if options.split in (None, item.split)
    }
    columns = ["path", "outcome", "prediction", *(f"p_{name}" for name in table.classes)]
    rows = [row for row in table.read(columns).to_pylist() if row["path"] in labels]
    scored = [row for row in rows if row["outcome"] == "scored"]
    print(f"{len(labels)} labels, {len(rows)} of them in the table, {len(scored)} scored")
    truth = np.array([table.classes.index(labels[row["path"]]) for row in scored])
    predicted = np.array([table.classes.index(row["prediction"]) for row in scored])
    probabilities = np.array([[row[f"p_{name}"] for name in table.classes] for row in scored])
    print(f"balanced accuracy {metrics.balanced_accuracy(truth, predicted):.4f}")
    print(f"accuracy          {float((truth == predicted).mean()):.4f}")
    print(f"macro AUC         {metrics.macro_auc(truth, probabilities):.4f}")
    recalls = metrics.recalls(truth, predicted, classes=len(table.classes))
    areas = metrics.one_vs_rest_auc(truth, probabilities)
    counts = metrics.confusion(truth, predicted, classes=len(table.classes))
    for name, recall, area, row in zip(table.classes, recalls, areas, counts, strict=True):
        figures = "undefined: no image" if recall is None else f"recall {recall:.3f}"
        figures += "" if area is None else f", AUC {area:.4f}"
        print(
            f"{name:<20} {figures}, predicted {dict(zip(table.classes, row.tolist(), strict=True))}"
        )


if __name__ == "__main__":
    main()

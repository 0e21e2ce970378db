"""Score archives of chest radiographs into one table, a row per file, and evaluate them honestly.

    import cxrbatch

    cxrbatch.score("archive", "results.parquet")
    results = cxrbatch.load_results("results.parquet")
    prediction = cxrbatch.load_model().predict("film.dcm")
    figures = cxrbatch.evaluate(results, "labels.csv")

Importing this package imports none of its parts: each name below is looked up when it is first
used. Research software: not a medical device.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrbatch.errors import CxrbatchError
    from cxrbatch.lungs.finder import LungFinder, Lungs, find_lungs
    from cxrbatch.model.prediction import Prediction
    from cxrbatch.model.predictor import Predictor, load_model
    from cxrbatch.reading.radiograph import read_radiographs
    from cxrbatch.reading.readings import Reading
    from cxrbatch.reports.audit_page import audit
    from cxrbatch.results.evaluation import evaluate
    from cxrbatch.results.frames import heatmaps, load_labels, load_results
    from cxrbatch.sample.archive_writer import write_sample
    from cxrbatch.scoring.score import score
    from cxrbatch.training.train import train

__version__ = "0.1.0"

__all__ = [
    "CxrbatchError",
    "LungFinder",
    "Lungs",
    "Prediction",
    "Predictor",
    "Reading",
    "__version__",
    "audit",
    "evaluate",
    "find_lungs",
    "heatmaps",
    "load_labels",
    "load_model",
    "load_results",
    "read_radiographs",
    "score",
    "train",
    "write_sample",
]

_MODULES = {
    "CxrbatchError": "errors",
    "LungFinder": "lungs.finder",
    "Lungs": "lungs.finder",
    "Prediction": "model.prediction",
    "Predictor": "model.predictor",
    "Reading": "reading.readings",
    "audit": "reports.audit_page",
    "evaluate": "results.evaluation",
    "find_lungs": "lungs.finder",
    "heatmaps": "results.frames",
    "load_labels": "results.frames",
    "load_model": "model.predictor",
    "load_results": "results.frames",
    "read_radiographs": "reading.radiograph",
    "score": "scoring.score",
    "train": "training.train",
    "write_sample": "sample.archive_writer",
}


def __getattr__(name: str) -> object:
    """Import the module that defines a public name, and return what the name stands for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]

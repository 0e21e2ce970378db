"""From labels to decoded images: collect labels, refuse what does not match, decode the files."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import LabelError
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.training.cache import DecodedInputs, prepare_inputs
from cxrbatch.training.console import Console
from cxrbatch.training.dataset import TrainingData
from cxrbatch.training.foreign import (
    ForeignFiles,
    ForeignImages,
    FurtherFiles,
    FurtherImages,
    read_foreign,
)
from cxrbatch.training.initial import check_teachers
from cxrbatch.training.labelled_files import CollectedLabels, LabelSources, collect_labels
from cxrbatch.training.mismatches import order_classes, refuse_mismatches, write_mismatches
from cxrbatch.training.run_files import RunFiles
from cxrbatch.training.twins import TwinFiles, TwinInputs, read_twins

_MAX_UNREADABLE = 0.05

SplitCheck = Callable[[Sequence[LabelledFile]], object]
"""Raises LabelError if labelled files cannot be divided; called before any image is read."""


@dataclass(frozen=True, slots=True)
class CollectedImages:
    """Labels joined with their files, and the decoded images.

    Attributes:
        labels: The labels and their files.
        classes: Class names in the order of the logits.
        inputs: The images of `labels.files`, in the same order.
    """

    labels: CollectedLabels
    classes: tuple[str, ...]
    inputs: DecodedInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCollector:
    """Reads labels, and decodes the images that they name.

    Attributes:
        sources: Where labels and files are, and the order of the classes.
        files: What the training writes; no file of the labels may be among it.
        recipe: Size and geometry of the network's inputs.
        workers: Processes that read.
        folder: Folder of the cache of decoded images.
        further: Files of twins for the controls, and of foreign images for the gate.
        console: Shows messages and progress.
    """

    sources: LabelSources
    files: RunFiles
    recipe: Recipe
    workers: int
    folder: Path
    further: FurtherFiles
    console: Console

    def read(
        self, check: SplitCheck, teachers: Sequence[Checkpoint], *, leads: bool
    ) -> CollectedImages:
        """Collect labels and decode their images.

        All that can be refused without reading an image is refused before one is read.

        Args:
            check: Called with the labelled files before any image is read.
            teachers: Checkpoints whose probabilities the network learns as well.
            leads: Whether this process writes the list of mismatches, if one is wanted.

        Raises:
            LabelError: Labels and files do not match, `check` refuses them, or more than 5 % of the
                files have no image.
            CheckpointError: A teacher has other classes or another geometry.
            UsageError: A file of the labels is one that the training writes.
            CxrbatchError: A file cannot be read or written.
        """
        labels = self._collect(leads=leads)
        classes = order_classes(labels.files, self.sources.classes)
        check_teachers(teachers, classes=classes, geometry=self.recipe.geometry)
        check(labels.files)
        return CollectedImages(labels, classes, self._decode(labels))

    def show(self, check: SplitCheck) -> None:
        """Show how labels and files fit, and raise what would stop the training; write nothing.

        Args:
            check: Called with the labelled files at the end.

        Raises:
            LabelError: Labels and files do not match, or `check` refuses them.
        """
        labels = self._collected()
        known = self.further.twins
        twins = [("twins", known.summary())] if known else []
        self.console.show(*labels.notes, *labels.counts(), *twins)
        self.console.mismatches(labels, listing=None)
        refuse_mismatches(labels.mismatches)
        order_classes(labels.files, self.sources.classes)
        check(labels.files)

    def read_further(
        self, data: TrainingData, labels: CollectedLabels, *, leads: bool
    ) -> FurtherImages:
        """Decode twins and foreign images, if there are any.

        Args:
            data: The images of a training, with the split of the files of `labels`.
            labels: The labels and their files.
            leads: Whether this is the first process; the others need no further images.

        Returns:
            The twins, with those of training images counted, and the foreign images.

        Raises:
            LabelError: A kind of foreign images has no image.
            CxrbatchError: The cache cannot be read or written, or no process can be started.
        """
        if not leads:
            return FurtherImages()
        twins, foreign = self.further.twins, self.further.foreign
        return FurtherImages(
            None if twins is None else self._twins(twins, data, labels),
            None if foreign is None else self._foreign(foreign),
        )

    def _foreign(self, foreign: ForeignFiles) -> ForeignImages:
        with self.console.bar("reading foreign images", len(foreign.files), "file"):
            found = read_foreign(
                foreign,
                recipe=self.recipe,
                workers=self.workers,
                folder=self.folder,
                progress=self.console.advance,
            )
        count, files = len(found.kind), len(foreign.files)
        self.console.say(f"foreign images: {count:,} of {files:,} files, {len(found.kinds)} kinds")
        return found

    def _twins(self, twins: TwinFiles, data: TrainingData, labels: CollectedLabels) -> TwinInputs:
        self.console.say(f"twins: {twins.summary()}")
        pairs = zip(data.split.files, labels.located, strict=True)
        train = [file for label, file in pairs if label.split == "train"]
        with self.console.bar("reading twins", len(twins.files), "file"):
            return read_twins(
                twins,
                recipe=self.recipe,
                workers=self.workers,
                folder=self.folder,
                train=train,
                progress=self.console.advance,
            )

    def _collect(self, *, leads: bool) -> CollectedLabels:
        listing = self.files.mismatches
        labels = self._collected(all_unlabelled=listing is not None and leads)
        self.files.check_sources(Path(os.fsdecode(file.path)) for file in labels.located)
        if listing is not None and leads:
            write_mismatches(labels.mismatches, labels.unlabelled_paths, listing)
        self.console.say(*(f"{title}: {text}" for title, text in labels.notes))
        self.console.mismatches(labels, listing=listing)
        refuse_mismatches(labels.mismatches)
        return labels

    def _collected(self, *, all_unlabelled: bool = False) -> CollectedLabels:
        return collect_labels(
            self.sources,
            all_unlabelled=all_unlabelled,
            bar=lambda: self.console.bar("reading headers", None, "file"),
            progress=self.console.advance,
        )

    def _decode(self, labels: CollectedLabels) -> DecodedInputs:
        count = len(labels.files)
        with self.console.bar("reading", count, "file"):
            inputs = prepare_inputs(
                labels.located,
                recipe=self.recipe,
                workers=self.workers,
                folder=self.folder,
                progress=self.console.advance,
            )
        unreadable = inputs.unreadable(labels.files)
        self.console.unreadable(unreadable)
        if len(unreadable) > _MAX_UNREADABLE * count:
            raise LabelError(
                f"{len(unreadable)} of {count} files gave no image, and {_MAX_UNREADABLE:.0%} may; "
                "look at some with `cxrbatch inspect`, then copy them again or remove their labels"
            )
        return inputs

"""The rows of the report's tables: summary, classes, confusions, bags, notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.bag.report.figures import FIGURES, Figure, figures_of
from training.bag.result import Comparison, Evaluation, SequenceResult, Sums, added

# Pairs of classes that are listed below each confusion matrix.
CONFUSIONS = 8


@dataclasses.dataclass(frozen=True)
class Recording:
    """One image topic of one bag, with what each network made of it, in the networks' order; None where one failed."""

    bag: str
    topic: str
    results: tuple[SequenceResult | None, ...]

    @property
    def known(self) -> tuple[SequenceResult, ...]:
        return tuple(result for result in self.results if result is not None)

    @property
    def start_ns(self) -> int:
        return min((result.frames[0].stamp_ns for result in self.known if result.frames), default=0)


def recordings(evaluation: Evaluation) -> list[Recording]:
    """In the order that the evaluation has them."""
    found: dict[tuple[str, str], dict[str, SequenceResult]] = {}
    for sequence in evaluation.sequences:
        found.setdefault((sequence.bag, sequence.topic), {})[sequence.model] = sequence
    return [
        Recording(bag, topic, tuple(by_model.get(model) for model in evaluation.models))
        for (bag, topic), by_model in found.items()
    ]


def summary(evaluation: Evaluation) -> tuple[list[Figure], list[dict[str, Any]]]:
    """The figures that any network has, and of each network its name, `values`, and `comparisons` with the first."""
    values = {model: figures_of(evaluation.of(model)) for model in evaluation.models}
    figures = [figure for figure in FIGURES if any(its[figure.key] is not None for its in values.values())]
    compared = {(each.second, each.figure): each for each in evaluation.comparisons}
    networks = [
        {
            "name": model,
            "values": values[model],
            "comparisons": {
                figure.key: compared[model, figure.key] for figure in figures if (model, figure.key) in compared
            },
        }
        for model in evaluation.models
    ]
    return figures, networks


def verdict(comparison: Comparison, figure: Figure) -> str:
    """`better`, `worse`, or empty where the interval has 0 in it or neither can be said."""
    if not comparison.sure or not figure.better:
        return ""
    return "better" if comparison.difference * figure.better > 0 else "worse"


def sums_of(evaluation: Evaluation) -> list[Sums]:
    """Of each network over everything."""
    zero = Sums.zero(len(evaluation.labels))
    return [
        added([zero, *(block.sums for sequence in evaluation.of(model) for block in sequence.blocks)])
        for model in evaluation.models
    ]


def class_rows(evaluation: Evaluation, sums: Sequence[Sums]) -> list[dict[str, Any]]:
    """Of each class its share of the labelled pixels and each network's IoU, percent."""
    pixels = max((each.confusion.sum(1) for each in sums), key=lambda counts: counts.sum())
    accuracies = [each.accuracy for each in sums]
    return [
        {
            "name": name,
            "color": hexadecimal(color),
            "share": 100 * float(pixels[label] / max(pixels.sum(), 1)),
            "ious": [None if accuracy is None else accuracy.per_class_iou[label] for accuracy in accuracies],
        }
        for label, (name, color) in enumerate(zip(evaluation.labels.names, evaluation.labels.palette, strict=True))
    ]


def row_shares(confusion: NDArray[np.int64]) -> list[list[float | None]]:
    """Of each true class's pixels the percentage that was given each label; a class without pixels has None."""
    totals = confusion.sum(1)
    return [
        [round(100 * int(count) / int(total), 2) if total else None for count in row]
        for row, total in zip(confusion, totals, strict=True)
    ]


def largest_confusions(confusion: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The pairs `truth`, `prediction` of class ids that most pixels were confused in, with the shares they make."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    return [
        {
            "truth": int(truth),
            "prediction": int(prediction),
            "of_class": 100 * float(wrong[truth, prediction] / confusion[truth].sum()),
            "of_all": 100 * float(wrong[truth, prediction] / confusion.sum()),
        }
        for truth, prediction in pairs
        if wrong[truth, prediction]
    ]


def bag_rows(found: Sequence[Recording], kept: Sequence[int]) -> list[dict[str, Any]]:
    """Of each recording its `frames`, the figures of each network, how many images the page has, and what is odd."""
    return [
        {
            "bag": each.bag,
            "topic": each.topic,
            "frames": max((len(result.frames) for result in each.known), default=0),
            "figures": [None if result is None else figures_of([result]) for result in each.results],
            "kept": kept[place],
            "notes": len(notes_of(each)),
            "complete": all(result.complete for result in each.known),
        }
        for place, each in enumerate(found)
    ]


def notes_of(recording: Recording) -> list[str]:
    """Each line once; with the networks' names where not all of them have it."""
    by_line: dict[str, list[str]] = {}
    for result in recording.known:
        for line in dict.fromkeys(result.notes):
            by_line.setdefault(line, []).append(result.model)
    everyone = len(recording.known)
    return [line if len(models) == everyone else f"{line} ({', '.join(models)})" for line, models in by_line.items()]


def hexadecimal(color: Sequence[int]) -> str:
    return "#" + bytes(color).hex()

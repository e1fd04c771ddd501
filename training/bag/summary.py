"""An evaluation on the terminal, and as JSON: everything but the pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from rich.table import Table

from training.bag.bootstrap import LEAST_UNITS, counts
from training.bag.provenance import SHOWN
from training.bag.result import FIGURE_NAMES, Comparison, Evaluation, SequenceResult, Sums, added
from training.console import plain_console


def print_summary(evaluation: Evaluation) -> None:
    """Tables of what there is to show, a column a network."""
    console = plain_console()
    tables = [summary_table(evaluation), class_table(evaluation), bag_table(evaluation), comparison_table(evaluation)]
    for table in tables:
        if table is not None:
            console.print(table)
    shown = [f"{name} {evaluation.settings[name]}" for name in SHOWN if name in evaluation.settings]
    if shown:
        console.print(f"with {', '.join(shown)}")


def summary_table(evaluation: Evaluation) -> Table:
    """The pooled figures, and latency."""
    pooled = _pooled(evaluation)
    frames = {model: len(_latencies(evaluation.of(model))[0]) for model in evaluation.models}
    table = _table("All bags" if _bags(evaluation) > 1 else "All frames", "", *evaluation.models)
    table.add_row("frames", *(str(frames[model]) for model in evaluation.models))
    figures = {model: sums.figures() for model, sums in pooled.items()}
    for name, title in FIGURE_NAMES.items():
        values = [figures[model][name] if model in figures else None for model in evaluation.models]
        if any(value is not None for value in values):
            table.add_row(f"{title}, %", *map(_number, values))
    times = [_latencies(evaluation.of(model))[1] for model in evaluation.models]
    if any(len(each) for each in times):
        table.add_section()
        for title, share in (("latency, median ms", 50), ("latency, 99 % below, ms", 99)):
            table.add_row(title, *(_number(float(np.percentile(each, share)) if len(each) else None) for each in times))
    return table


def class_table(evaluation: Evaluation) -> Table | None:
    """IoU of each class beside its share of the pixels that have a truth; None without a truth."""
    accuracies = {model: sums.accuracy for model, sums in _pooled(evaluation).items()}
    known = [model for model, accuracy in accuracies.items() if accuracy is not None]
    if not known:
        return None
    # Of the network that saw most: recorded labels may lack frames.
    pixels = max((sums.confusion.sum(1) for sums in _pooled(evaluation).values()), key=lambda counts: counts.sum())
    table = _table("IoU, %", "class", "pixels, %", *known)
    for label, name in enumerate(evaluation.labels.names):
        ious = (accuracies[model].per_class_iou[label] for model in known)  # type: ignore[union-attr]
        table.add_row(name, f"{100 * pixels[label] / pixels.sum():.2f}", *map(_number, ious))
    return table


def bag_table(evaluation: Evaluation) -> Table | None:
    """A line a camera of a bag, with mean IoU, or without truth flow consistency; None for a single one."""
    sequences: dict[tuple[str, str], dict[str, SequenceResult]] = {}
    for each in evaluation.sequences:
        sequences.setdefault((each.bag, each.topic), {})[each.model] = each
    if len(sequences) < 2:
        return None
    name = "miou" if evaluation.has_truth else "flow_consistency"
    table = _table(f"{FIGURE_NAMES[name]} by bag, %", "bag", "topic", *evaluation.models)
    table.columns[1].justify = "left"
    for (bag, topic), own in sequences.items():
        values = (own[model].sums.figures()[name] if model in own else None for model in evaluation.models)
        table.add_row(bag, topic, *map(_number, values))
    return table


def comparison_table(evaluation: Evaluation) -> Table | None:
    """Differences with their intervals; None for a single network."""
    if not evaluation.comparisons:
        return None
    seconds = list(dict.fromkeys(each.second for each in evaluation.comparisons))
    first = evaluation.comparisons[0]
    count = counts(evaluation.comparisons)
    table = _table(f"Difference to {first.first}, points", "", *seconds)
    table.caption = (
        f"95 % bootstrap intervals, {count} {first.units} resampled in pairs; *: leaves out 0"
        if any(each.count >= LEAST_UNITS for each in evaluation.comparisons)
        else f"no intervals: {count} {first.units} are too few to resample, it takes {LEAST_UNITS}"
    )
    table.caption_justify = "left"
    for name, title in FIGURE_NAMES.items():
        own = {each.second: each for each in evaluation.comparisons if each.figure == name}
        if own:
            table.add_row(title, *(_difference(own.get(second)) for second in seconds))
    return table


def problems(evaluation: Evaluation) -> list[str]:
    """A line for everything that a person should know: bags without figures, and what the others lost."""
    lines = [f"{bag}: {line}" for bag, line in evaluation.failures.items()]
    lines += [f"{each.bag}: {note}" for each in evaluation.sequences for note in each.notes]
    return list(dict.fromkeys(lines))


def document(evaluation: Evaluation) -> dict[str, Any]:
    """Percentages but for stamps, milliseconds and counts of pixels; None where there is no value."""
    pooled = _pooled(evaluation)
    return {
        "models": list(evaluation.models),
        "classes": list(evaluation.labels.names),
        "has_truth": evaluation.has_truth,
        "settings": evaluation.settings,
        "figures": {model: _figures(sums, evaluation) for model, sums in pooled.items()},
        "latency_ms": {model: _spread(_latencies(evaluation.of(model))[1]) for model in pooled},
        "comparisons": [dataclasses.asdict(each) for each in evaluation.comparisons],
        "failures": evaluation.failures,
        "sequences": [_sequence(each, evaluation) for each in evaluation.sequences],
    }


def _sequence(sequence: SequenceResult, evaluation: Evaluation) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(sequence.frames[0])]
    return {
        "bag": sequence.bag,
        "topic": sequence.topic,
        "model": sequence.model,
        "complete": sequence.complete,
        "notes": list(sequence.notes),
        "figures": _figures(sequence.sums, evaluation),
        "blocks": [{"start_ns": each.start_ns, "figures": each.sums.figures()} for each in sequence.blocks],
        # By column: a row of names for each of ten thousand frames is most of the file.
        "frames": {name: [getattr(frame, name) for frame in sequence.frames] for name in names},
    }


def _figures(sums: Sums, evaluation: Evaluation) -> dict[str, Any]:
    accuracy = sums.accuracy
    if accuracy is None:
        return dict(sums.figures())
    per_class = dict(zip(evaluation.labels.names, accuracy.per_class_iou, strict=True))
    return sums.figures() | {"per_class_iou": per_class, "confusion": sums.confusion.tolist()}


def _pooled(evaluation: Evaluation) -> dict[str, Sums]:
    """By network, of those that have a sequence."""
    own = {model: evaluation.of(model) for model in evaluation.models}
    return {model: added(each.sums for each in sequences) for model, sequences in own.items() if sequences}


def _latencies(sequences: tuple[SequenceResult, ...]) -> tuple[list[int], list[float]]:
    """The stamps of all frames, and the times of those that have one."""
    frames = [frame for sequence in sequences for frame in sequence.frames]
    return [frame.stamp_ns for frame in frames], [frame.latency_ms for frame in frames if frame.latency_ms is not None]


def _spread(times: list[float]) -> dict[str, float] | None:
    if not times:
        return None
    return {name: float(np.percentile(times, share)) for name, share in (("p50", 50), ("p99", 99))}


def _bags(evaluation: Evaluation) -> int:
    return len({each.bag for each in evaluation.sequences})


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    text = f"{comparison.difference:+.2f}"
    if comparison.low is None or comparison.high is None:
        return text
    return f"{text} [{comparison.low:+.2f}, {comparison.high:+.2f}]".replace("[", r"\[") + (
        " *" if comparison.sure else "  "
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table

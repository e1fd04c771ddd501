"""Whether one network is better than another, or the bags just happened to suit it: paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.bag.result import FIGURE_NAMES, Comparison, SequenceResult, Sums, added

RESAMPLES = 2000
SEED = 0
LEAST_BAGS = 8
# With fewer the few values that resamples can have say little.
LEAST_UNITS = 5
CONFIDENCE = 0.95

Unit = tuple[str, ...] | tuple[str, str, int]


def compare(models: Sequence[str], sequences: Sequence[SequenceResult], resamples: int = RESAMPLES) -> list[Comparison]:
    """Every further network against the first, figure by figure; figures that one of the two lacks are left out.

    What is drawn, with replacement and for both networks alike, are bags where there are at least 8, else blocks of
    10 s; of fewer than 5 there is no interval. It goes from the 2.5th to the 97.5th percentile of the difference of
    the pooled figures (Efron and Tibshirani, 1993, chapter 13). Only what both networks have labelled some of is
    counted. The same every time.
    """
    comparisons = []
    for second in models[1:]:
        comparisons += _compare_two(models[0], second, sequences, resamples)
    return comparisons


def counts(comparisons: Sequence[Comparison]) -> str:
    """How many units were compared: `7`, or `3 to 7` where pairs of networks share different ones."""
    found = [each.count for each in comparisons]
    return str(min(found)) if min(found) == max(found) else f"{min(found)} to {max(found)}"


def _compare_two(first: str, second: str, sequences: Sequence[SequenceResult], resamples: int) -> list[Comparison]:
    by_bag = len({each.bag for each in sequences if each.model == first}) >= LEAST_BAGS
    ours, theirs = (_units(model, sequences, by_bag) for model in (first, second))
    shared = [unit for unit in ours if unit in theirs]
    if not shared:
        return []
    pairs = [[units[unit] for unit in shared] for units in (ours, theirs)]
    whole = [added(each).figures() for each in pairs]
    drawn = _resampled(pairs, resamples) if len(shared) >= LEAST_UNITS else {}
    found = []
    for figure in FIGURE_NAMES:
        before, after = (values[figure] for values in whole)
        if before is None or after is None:
            continue
        low, high = _interval(drawn[figure]) if drawn else (None, None)
        units = "bags" if by_bag else "blocks of 10 s"
        found.append(Comparison(first, second, figure, after - before, low, high, units, len(shared)))
    return found


def _units(model: str, sequences: Sequence[SequenceResult], by_bag: bool) -> dict[Unit, Sums]:
    """What is drawn as one, in the order of the bags."""
    units: dict[Unit, Sums] = {}
    for sequence in sequences:
        if sequence.model != model:
            continue
        for block in sequence.blocks:
            # Cameras of one bag see the same minutes.
            unit = (sequence.bag,) if by_bag else (sequence.bag, sequence.topic, block.start_ns)
            units[unit] = units[unit] + block.sums if unit in units else block.sums
    return units


def _resampled(pairs: Sequence[Sequence[Sums]], resamples: int) -> dict[str, NDArray[np.float64]]:
    """Of each figure the difference in every resample, NaN where one of the two has none."""
    count = len(pairs[0])
    random = np.random.default_rng(SEED)
    times = random.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
    figures = [[sums.figures() for sums in _pooled(units, times)] for units in pairs]
    return {
        name: np.array(
            [
                np.nan if before[name] is None or after[name] is None else after[name] - before[name]
                for before, after in zip(*figures, strict=True)
            ]
        )
        for name in FIGURE_NAMES
    }


def _pooled(units: Sequence[Sums], times: NDArray[np.float64]) -> list[Sums]:
    """The sum of the units, each as often as a row of `times` `(resamples, units)` says."""
    names = list(dict.fromkeys(name for unit in units for name in unit.means))
    confusion = np.rint(np.tensordot(times, np.stack([unit.confusion for unit in units]).astype(np.float64), 1))
    calibration = np.tensordot(times, np.stack([unit.calibration for unit in units]), 1)
    means = np.array([[unit.means.get(name, (0.0, 0.0)) for name in names] for unit in units])
    pairs = np.tensordot(times, means.reshape(len(units), len(names), 2), 1)
    return [
        Sums(
            confusion[row].astype(np.int64),
            {name: (float(top), float(bottom)) for name, (top, bottom) in zip(names, pairs[row], strict=True)},
            calibration[row],
        )
        for row in range(len(times))
    ]


def _interval(differences: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """None where a tenth of the resamples gives no value."""
    known = differences[~np.isnan(differences)]
    if len(known) < 0.9 * len(differences):
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)

"""A difference between two networks comes with how much of it may be chance, the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from training.bag.bootstrap import compare
from training.bag.result import Block, Comparison, FrameScore, SequenceResult, Sums

SECOND = 1_000_000_000


def sums(right: int, of: int = 100, kept: float | None = None) -> Sums:
    """`right` of `of` pixels of two classes; `kept` is the numerator of flow consistency, of 100."""
    means = {} if kept is None else {"flow_consistency": (kept, 100.0)}
    return Sums(np.array([[right, of - right], [0, of]], np.int64), means)


def sequence(model: str, blocks: Sequence[Sums], bag: str = "drive", topic: str = "/camera") -> SequenceResult:
    own = tuple(Block(number * 10 * SECOND, block) for number, block in enumerate(blocks))
    return SequenceResult(bag, topic, model, (FrameScore(0, 50.0, 1.0),), own)


def only(comparisons: Sequence[Comparison], figure: str) -> Comparison:
    (found,) = [each for each in comparisons if each.figure == figure]
    return found


def two(kept: Sequence[tuple[float, float]]) -> list[SequenceResult]:
    """A block for each pair of what the first and the second network kept."""
    return [
        sequence("first", [sums(50, kept=first) for first, _ in kept]),
        sequence("second", [sums(50, kept=second) for _, second in kept]),
    ]


def test_equal_networks_differ_by_nothing_in_every_resample() -> None:
    blocks = [sums(right, kept=right) for right in (10, 50, 90, 30, 70)]
    found = compare(["a", "b"], [sequence("a", blocks), sequence("b", blocks)])
    assert {each.figure for each in found} == {"miou", "fw_iou", "pixel_accuracy", "flow_consistency"}
    assert {(each.difference, each.low, each.high, each.sure) for each in found} == {(0.0, 0.0, 0.0, False)}


def test_the_interval_is_of_the_difference_that_both_have_over_the_same_blocks() -> None:
    # Blocks are of all kinds of difficulty, and the second network keeps 5 of 100 more in each.
    found = only(compare(["first", "second"], two([(kept, kept + 5) for kept in range(5, 95, 6)])), "flow_consistency")
    assert found.difference == pytest.approx(5)
    assert (found.low, found.high) == (pytest.approx(5), pytest.approx(5))
    assert found.sure and (found.units, found.count) == ("blocks of 10 s", 15)


def test_the_interval_is_the_one_that_scipy_gives() -> None:
    random = np.random.default_rng(3)
    pairs = [(float(kept), float(kept + more)) for kept, more in zip(*random.integers(1, 40, (2, 30)), strict=True)]
    found = only(compare(["first", "second"], two(pairs)), "flow_consistency")
    differences = np.array([second - first for first, second in pairs])
    expected = stats.bootstrap(
        (differences,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert found.difference == pytest.approx(differences.mean())
    assert found.low == pytest.approx(expected.low, abs=0.5)
    assert found.high == pytest.approx(expected.high, abs=0.5)


def test_the_same_evaluation_gives_the_same_intervals() -> None:
    evaluation = two([(number**2 % 53, number**3 % 71) for number in range(1, 40)])
    assert compare(["first", "second"], evaluation) == compare(["first", "second"], evaluation)


def test_figures_of_a_resample_are_pooled_and_not_averaged() -> None:
    # One block has nearly all the pixels: wherever it is drawn the difference is its own.
    ours = [sums(900_000, 1_000_000), *[sums(0)] * 5]
    theirs = [sums(800_000, 1_000_000), *[sums(100)] * 5]
    found = only(compare(["a", "b"], [sequence("a", ours), sequence("b", theirs)]), "pixel_accuracy")
    assert found.difference == pytest.approx(-5, abs=0.1)
    # In a third of the resamples that block is not there, and the others are all right instead of all wrong.
    assert found.low == pytest.approx(-5, abs=0.1) and found.high == pytest.approx(50, abs=0.1)


@pytest.mark.parametrize(("bags", "units", "count"), [(7, "blocks of 10 s", 14), (8, "bags", 8)])
def test_bags_are_resampled_where_there_are_enough(bags: int, units: str, count: int) -> None:
    evaluation = [
        sequence(model, [sums(50, kept=number), sums(50, kept=number + 1)], f"drive_{number}")
        for number in range(bags)
        for model in ("a", "b")
    ]
    found = only(compare(["a", "b"], evaluation), "flow_consistency")
    assert (found.units, found.count) == (units, count)


def test_the_cameras_of_a_bag_are_drawn_together() -> None:
    evaluation = [
        sequence(model, [sums(50, kept=number)], f"drive_{number}", topic)
        for number in range(8)
        for topic in ("/left", "/right")
        for model in ("a", "b")
    ]
    assert only(compare(["a", "b"], evaluation), "flow_consistency").count == 8


@pytest.mark.parametrize(("blocks", "known"), [(1, False), (4, False), (5, True)])
def test_few_blocks_give_a_difference_without_an_interval(blocks: int, known: bool) -> None:
    found = only(compare(["first", "second"], two([(20, 30)] * blocks)), "flow_consistency")
    assert found.difference == pytest.approx(10)
    assert (found.low is not None, found.high is not None, found.sure) == (known, known, known)


def test_a_figure_that_one_of_the_two_lacks_is_not_compared() -> None:
    evaluation = [sequence("a", [sums(50, kept=10)] * 3), sequence("b", [sums(60)] * 3)]
    assert "flow_consistency" not in {each.figure for each in compare(["a", "b"], evaluation)}


def test_what_only_one_of_the_two_has_labelled_does_not_count() -> None:
    evaluation = [
        *two([(20, 30), (40, 50)]),
        sequence("first", [sums(50, kept=100)], "another drive"),
    ]
    found = only(compare(["first", "second"], evaluation), "flow_consistency")
    assert (found.difference, found.count) == (pytest.approx(10), 2)


def test_every_further_network_is_compared_with_the_first() -> None:
    blocks = [sums(50), sums(60)]
    found = compare(["a", "b", "c"], [sequence(model, blocks) for model in "abc"])
    assert {(each.first, each.second) for each in found} == {("a", "b"), ("a", "c")}

"""Whose image it is, where several publish on one topic."""

from __future__ import annotations

import itertools
import random

import pytest

from stmem_ros.node.origin import FORGOTTEN_AFTER, MOST_LOST, UNNUMBERED, Origins


def names(numbers: list[int | None]) -> list[int]:
    origins = Origins()
    return [origins.of(number) for number in numbers]


STREAMS = {
    "one camera": ([1, 2, 3, 4], "aaaa"),
    "one camera that loses frames": ([5, 9, 80, 81], "aaaa"),
    "a camera that is started again": ([307, 308, 1, 2], "aabb"),
    "a camera that is started again soon": ([7, 8, 1, 2], "aabc"),
    "by turns": ([200, 7, 201, 8, 202, 9], "ababab"),
    "close to one another": ([10, 9, 11, 10, 12, 11], "abcdef"),
    "one quicker than the other": ([150, 3, 151, 152, 4, 153, 154, 5], "abaabaab"),
    "three": ([150, 3, 900, 151, 4, 901], "abcabc"),
    "one that was there before": ([5, 900, 6, 901, 7, 902], "ababab"),
    "not numbered": ([UNNUMBERED, None, UNNUMBERED], "aaa"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_messages_are_told_apart_by_their_publishers_numbers(name: str) -> None:
    numbers, expected = STREAMS[name]
    found = names(numbers)
    assert [found.index(each) for each in found] == [expected.index(each) for each in expected]


@pytest.mark.parametrize("start", [0, 1, 30, 5000])
@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_two_publishers_in_any_order_are_never_taken_for_one(start: int, lost: float) -> None:
    """Each image's name differs from that of the image before it, wherever that is another publisher's."""
    draw, origins = random.Random(start), Origins()
    numbers, sender, name = [1, 1 + start], None, 0
    mixed = pairs = 0
    for _ in range(4000):
        who = draw.randrange(2)
        numbers[who] += 1
        if draw.random() < lost:
            continue
        found = origins.of(numbers[who])
        if sender is not None and who != sender:
            pairs += 1
            mixed += found == name
        sender, name = who, found
    assert pairs > 1000
    # But for the first.
    assert mixed <= 1


def test_one_publisher_is_one_whatever_it_loses() -> None:
    draw = random.Random(1)
    numbers = list(itertools.accumulate(draw.choices([1, 1, 1, 2, 5, MOST_LOST], k=2000)))
    assert len(set(names(numbers))) == 1


def test_a_camera_that_was_started_again_is_one_publisher_also_when_it_comes_to_the_old_numbers() -> None:
    numbers = [*range(1, 1000), *(number for number in range(1, 3000) if number % 3)]
    assert len(set(names(numbers))) == 2


def test_what_is_gone_is_forgotten() -> None:
    origins = Origins()
    for _ in range(30):
        for number in range(1, FORGOTTEN_AFTER + 2):
            origins.of(number)
    assert len(origins._known) <= 2

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
    "a camera that is started again": ([7, 8, 1, 2], "aabb"),
    "by turns": ([100, 7, 101, 8, 102, 9], "ababab"),
    "close to one another": ([10, 9, 11, 10, 12, 11], "ababab"),
    "started at once": ([1, 1, 2, 2, 3, 3], "ababab"),
    "one quicker than the other": ([50, 3, 51, 52, 4, 53, 54, 5], "abaabaab"),
    "three": ([50, 3, 900, 51, 4, 901], "abcabc"),
    "one that was there before": ([5, 900, 6, 901, 7, 902], "ababab"),
    "not numbered": ([UNNUMBERED, None, UNNUMBERED], "aaa"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_messages_are_told_apart_by_their_publishers_numbers(name: str) -> None:
    numbers, expected = STREAMS[name]
    found = names(numbers)
    assert [found.index(each) for each in found] == [expected.index(each) for each in expected]


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

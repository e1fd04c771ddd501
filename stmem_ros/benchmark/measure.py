"""Ways timed side by side: each round runs all of them on the same frame, in an order of its own."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmem_ros.benchmark.subject import BenchmarkError
from stmem_ros.benchmark.ways import Comparison, Moment, Way
from stmem_ros.network.segmenter import upsample

WARM_UP_ROUNDS = 3
FEWEST_ROUNDS, MOST_ROUNDS = 5, 1000


@dataclasses.dataclass(frozen=True)
class Budget:
    """`repeats` rounds after those that warm up; 0: as many as `seconds` allow with them, from 5 to 1000."""

    seconds: float = 120.0
    repeats: int = 0

    def rounds(self, spent: float, one: float) -> int:
        """`spent` seconds so far, `one` is what a round takes."""
        if self.repeats:
            return self.repeats
        return min(max(int((self.seconds - spent) / max(one, 1e-6)), FEWEST_ROUNDS), MOST_ROUNDS)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles of `count` times, in milliseconds."""

    median: float
    quartiles: tuple[float, float]
    count: int

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        low, median, high = (float(value) * 1e3 for value in np.percentile(seconds, [25, 50, 75]))
        return cls(median, (low, high), len(seconds))


class Exactness:
    """How far logits are from those of the plain modules, and how many labels at the network's size are the same."""

    def __init__(self) -> None:
        self.max_abs_diff = 0.0
        self._equal, self._pixels = 0, 0

    def add(self, reference: Tensor, logits: Tensor, size: tuple[int, int]) -> None:
        """Raises BenchmarkError where a logit is no finite number."""
        difference = (reference.float() - logits.float()).abs().max().item()
        if not np.isfinite(difference):
            raise BenchmarkError(
                f"the logits hold numbers that are not finite at {str(logits.dtype).removeprefix('torch.')}; "
                "take another --precision"
            )
        self.max_abs_diff = max(self.max_abs_diff, difference)
        equal = upsample(reference.float(), size).argmax(1) == upsample(logits.float(), size).argmax(1)
        self._equal += int(equal.sum())
        self._pixels += equal.numel()

    @property
    def label_agreement(self) -> float:
        """0..1."""
        return self._equal / self._pixels


def interleave(
    ways: Mapping[str, Way],
    scene: Callable[[int], Moment],
    device: torch.device,
    budget: Budget,
    look: Callable[[Moment, dict[str, Tensor | None], bool], None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    seed: int = 0,
) -> dict[str, Spread]:
    """Times of each way, all on the same frames. `look(moment, outputs, warming_up)` runs after each round, untimed.

    The clock starts with an idle device and stops with an idle device.
    """
    order = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in ways}

    def run_round(number: int, warming_up: bool) -> None:
        moment, outputs = scene(number), {}
        for name in order.sample(sorted(ways), len(ways)):
            wait(device)
            started = time.perf_counter()
            outputs[name] = ways[name](moment)
            wait(device)
            if not warming_up:
                times[name].append(time.perf_counter() - started)
        look(moment, outputs, warming_up)

    with torch.inference_mode():
        begun = last = time.perf_counter()
        for number in range(WARM_UP_ROUNDS):
            last = time.perf_counter()
            run_round(number, True)
        one = time.perf_counter() - last
        rounds = budget.rounds(time.perf_counter() - begun, one)
        say(f"{rounds} rounds of {len(ways)} ways, about {rounds * one:.0f} s")
        for number in range(WARM_UP_ROUNDS, WARM_UP_ROUNDS + rounds):
            run_round(number, False)
    return {name: Spread.of(seconds) for name, seconds in times.items()}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    comparison: Comparison, size: tuple[int, int], budget: Budget, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Spread], Exactness]:
    """The ways' times, and how exact the fast path was: in every round in float32, else in those that warm up."""
    exactness = Exactness()

    def look(moment: Moment, outputs: dict[str, Any], warming_up: bool) -> None:
        if comparison.reference_is_paper_way:
            exactness.add(outputs["paper_way"], outputs["fast"], size)
        elif warming_up:
            exactness.add(comparison.reference(moment), outputs["fast"], size)

    times = interleave(comparison.ways, comparison.scene, comparison.device, budget, look, say)
    return times, exactness

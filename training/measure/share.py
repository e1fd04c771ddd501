"""A share as a numerator and a denominator, so that those of several stretches can be added."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Share:
    """What was counted so far; of a mean, the sum of the values and how many there are."""

    numerator: float = 0.0
    denominator: float = 0.0

    def add(self, numerator: float, denominator: float) -> None:
        self.numerator += numerator
        self.denominator += denominator

    def take(self) -> tuple[float, float]:
        """Numerator and denominator since the last call."""
        taken = self.numerator, self.denominator
        self.numerator = self.denominator = 0.0
        return taken

    @property
    def value(self) -> float | None:
        """Percent; None of nothing."""
        return percent(self.numerator, self.denominator)


def percent(numerator: float, denominator: float) -> float | None:
    return 100 * float(numerator) / float(denominator) if denominator else None

"""What the settings of training may be: ranges that are checked once, with errors that name field, value and range."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, without these themselves if `open_low` or `open_high`."""

    low: float = 0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        kind = "be a whole number" if self.whole else "be a number"
        if self.high == math.inf:
            return f"{kind} above {self.low}" if self.open_low else f"{kind} of at least {self.low}"
        low = "above" if self.open_low else "at least"
        return f"be {low} {self.low} and {'below' if self.open_high else 'at most'} {self.high}"


COUNT = Range(1, whole=True)
COUNT_OR_NONE = Range(0, whole=True)
NOT_NEGATIVE = Range()
ABOVE_ZERO = Range(open_low=True)
SHARE = Range(high=1)
BELOW_ONE = Range(high=1, open_high=True)


def check(settings: Any, prefix: str = "", **ranges: Range) -> None:
    """Raises ValueError for the first field of `settings` that is not in its range."""
    for field, allowed in ranges.items():
        value = getattr(settings, field)
        if value in allowed:
            continue
        if isinstance(value, (int, float)) and value < 0 and allowed in (NOT_NEGATIVE, COUNT_OR_NONE):
            raise ValueError(f"{prefix}{field} is {value!r}; it must not be negative")
        raise ValueError(f"{prefix}{field} is {value!r}; it must {allowed}")

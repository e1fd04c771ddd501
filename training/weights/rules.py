"""The form of a table: which tensor of a source becomes which of ours, and how a state of that source is known."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from stmem_ros.network import SegmenterConfig

Shape = tuple[int, ...]
State = Mapping[str, Tensor]
# A source's tensor and the shape that ours has, to ours. Raises ValueError or RuntimeError where that cannot be.
Change = Callable[[Tensor, Shape], Tensor]


class Rule(NamedTuple):
    """One line of a table: our tensors whose whole name matches `ours` are the source's `theirs`.

    `theirs` may take up groups of `ours` (`\\1`). Without it the source has no such tensor, and ours is as in a new
    network. Several rules may match one name: the first counts whose tensor is there.
    """

    ours: str
    theirs: str | None
    change: Change | None = None


def under(rules: tuple[Rule, ...], ours: str = "", theirs: str = "") -> tuple[Rule, ...]:
    """The same rules with names below `ours` and `theirs` (plain text such as `base.backbone.`)."""
    return tuple(
        Rule(re.escape(ours) + rule.ours, None if rule.theirs is None else theirs + rule.theirs, rule.change)
        for rule in rules
    )


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Args:
        about: what it is and how its files are called, for a person
        has: regular expressions; a state of this source has a tensor for each, by the whole of its name; without any,
            the source has to be named
        lacks: it has none of these
        bases: a regular expression of the base networks that it may be, or whose backbone it may be
        rules: our names in a whole network, or in a backbone, to theirs
        left_over: names (a regular expression) that nothing here needs, and what they are
        network: what a state's whole network consists of over the base of that name; None: an ImageNet classifier,
            of which the backbone is taken
        prefix: may stand before names, and is left out
        note: what names and shapes cannot tell, for a person
    """

    about: str
    has: tuple[str, ...]
    bases: str
    rules: tuple[Rule, ...]
    lacks: tuple[str, ...] = ()
    left_over: tuple[tuple[str, str], ...] = ()
    network: Callable[[State, str], SegmenterConfig] | None = None
    prefix: str = ""
    note: str = ""


def third(index: int) -> Change:
    """Query (0), key (1) or value (2) of a tensor in which they are stacked."""

    def change(tensor: Tensor, wanted: Shape) -> Tensor:
        if tensor.shape[0] != 3 * wanted[0]:
            raise ValueError("its first side is not three times as long")
        return tensor.chunk(3)[index]

    return change


def reshaped(tensor: Tensor, wanted: Shape) -> Tensor:
    """The same rows, a linear layer's as a convolution's or the other way round."""
    if tensor.shape[0] != wanted[0]:
        raise ValueError("it has another number of rows")
    return tensor.reshape(wanted)

"""A state held against a table: what becomes ours, what is missing, what is left over."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from training.weights.rules import Rule, Shape, State

# Counted in training, used nowhere.
STEPS = (r"(.+\.)?num_batches_tracked", "counts of training steps")
# Of modules beside the network, as Lightning's have them.
LOSSES = (r"(criterion|\w*loss\w*|\w*metrics?|(train|val|valid|test)_\w+)\..+", "of a loss or a metric")


def is_counter(name: str) -> bool:
    """Whether a tensor of that name only counts the steps of a training: no file of weights needs it."""
    return re.fullmatch(STEPS[0], name) is not None


@dataclasses.dataclass(frozen=True)
class Match:
    """`tensors` and `new` (as in a new network) by our names, the rest by the source's.

    `misfits` is what has another shape, and the reason; `left_over` what nothing here needs, by what it is.
    """

    tensors: dict[str, Tensor]
    new: tuple[str, ...]
    missing: tuple[str, ...]
    misfits: dict[str, str]
    left_over: dict[str, list[str]]
    unknown: tuple[str, ...]

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.misfits) + len(self.unknown)


def match(
    state: State, wanted: Mapping[str, Shape], rules: tuple[Rule, ...], left_over: tuple[tuple[str, str], ...] = ()
) -> Match:
    """`state` under our names and in our shapes, those of `wanted`, as `rules` say."""
    tensors: dict[str, Tensor] = {}
    misfits: dict[str, str] = {}
    new, missing, used = [], [], set()
    for ours, shape in wanted.items():
        if is_counter(ours):
            continue
        found = [(rule, matched) for rule in rules if (matched := re.fullmatch(rule.ours, ours))]
        named = [(matched.expand(rule.theirs), rule.change) for rule, matched in found if rule.theirs is not None]
        if found and not named:
            new.append(ours)
            continue
        theirs, change = next((each for each in named if each[0] in state), named[0] if named else (ours, None))
        if theirs not in state:
            missing.append(theirs)
            continue
        used.add(theirs)
        try:
            tensor = state[theirs] if change is None else change(state[theirs], shape)
            if tuple(tensor.shape) != shape:
                raise ValueError("its shape differs")
            tensors[ours] = tensor
        except (ValueError, RuntimeError, IndexError):
            misfits[theirs] = f"{theirs} has shape {tuple(state[theirs].shape)}; {ours} is {shape}"
    known, unknown = collections.defaultdict(list), []
    for name in state:
        if name not in used:
            what = next((what for pattern, what in (*left_over, STEPS, LOSSES) if re.fullmatch(pattern, name)), None)
            unknown.append(name) if what is None else known[what].append(name)
    return Match(tensors, tuple(new), tuple(dict.fromkeys(missing)), misfits, dict(known), tuple(unknown))

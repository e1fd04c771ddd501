"""Which of the tensors in a file are the network's: training programs wrap them, and put other things beside them."""

from __future__ import annotations

import collections
import dataclasses
import re
from pathlib import Path

from torch import Tensor

from training.weights.catalog import SOURCES, prefixes, recognise
from training.weights.read import WRAPPERS, Contents, WeightsError, read_contents
from training.weights.rules import State

# What PyTorch's and Lightning's wrappers put before every name of a network.
GENERIC = re.compile(r"(module|_orig_mod|model|net|network|segmentor)\.")


@dataclasses.dataclass(frozen=True)
class Part:
    """The tensors of one network, with what stood before their names left out.

    `taken` says which part of the file it is, for a person ("" where it is all), `left` what else the file holds.
    """

    state: dict[str, Tensor]
    taken: str = ""
    left: tuple[str, ...] = ()


def read_state(path: Path, prefix: str | None = None, recognised: bool = True) -> Part:
    """The network in a file: the part whose names a source knows, or the one whose names begin with `prefix`.

    With `recognised` false names need not be known. Raises WeightsError where there is none, or where it is not clear
    which of several is meant.
    """
    contents = read_contents(path)
    if prefix is not None:
        part = _below(contents, prefix.rstrip(".") + ".", path)
    else:
        part = _network(contents, path, recognised)
    state = {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor for name, tensor in part.state.items()
    }
    return dataclasses.replace(part, state=state)


def _below(contents: Contents, prefix: str, path: Path) -> Part:
    """The part whose names, or names after that of the dict that they lie in, begin with `prefix`."""
    for place in _ordered(contents):
        state = contents.states[place]
        for before in ("", f"{place}." if place else ""):
            taken = {n[len(prefix) - len(before) :]: t for n, t in state.items() if f"{before}{n}".startswith(prefix)}
            if taken and prefix.startswith(before):
                own, stripped = unwrapped(taken)
                return _part(contents, place, own, prefix.removeprefix(before) + stripped)
    first = [f"{place}.{name}" if place else name for place, state in contents.states.items() for name in state]
    raise WeightsError(f"--prefix {prefix}: no name in {path} begins so (its first are {', '.join(first[:3])})")


def _network(contents: Contents, path: Path, recognised: bool) -> Part:
    places = _ordered(contents)
    found = {place: unwrapped(contents.states[place]) for place in places}
    known = [place for place in places if recognise(found[place][0]) is not None]
    if not known and recognised:
        raise WeightsError(unknown_source(contents.states[places[0]], path))
    usual = [place for place in known or places if place.rpartition(".")[2] in ("", *WRAPPERS)]
    if len(known or places) > 1 and not usual:
        several = known or places
        raise WeightsError(
            f"{path} holds no tensors by name: they lie below {', '.join(map(repr, several[:3]))}; choose one, "
            f"--prefix {several[0]}"
        )
    place = (usual or known or places)[0]
    return _part(contents, place, *found[place])


def unwrapped(state: State) -> tuple[dict[str, Tensor], str]:
    """The tensors whose names a source knows behind what wrappers put before them, and what that was.

    All tensors, without what all their names begin with, where no source knows them.
    """
    for prefix in _generic_prefixes(state):
        below = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if recognise(below) is not None:
            return below, prefix
    shared = [prefix for prefix in _generic_prefixes(state) if all(name.startswith(prefix) for name in state)]
    prefix = max(shared, key=len)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}, prefix


def _generic_prefixes(state: State) -> list[str]:
    """What wrappers may have put before names, the shortest first, beginning with nothing."""
    found = [""]
    for prefix in found:
        counts = collections.Counter(
            match[0] for name in state if name.startswith(prefix) and (match := GENERIC.match(name, len(prefix)))
        )
        found += [prefix + more for more, _ in counts.most_common()]
    return found


def _ordered(contents: Contents) -> list[str]:
    """Where the file's states lie, those that usually are the network first; else the larger first."""

    def rank(place: str) -> tuple[int, int]:
        key = place.rpartition(".")[2]
        usual = WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS)
        return usual, -len(contents.states[place])

    networks = [
        place
        for place, state in contents.states.items()
        if not all(_is_figure(name, tensor) for name, tensor in state.items())
    ]
    return sorted(networks or contents.states, key=rank)


def _part(contents: Contents, place: str, own: State, prefix: str) -> Part:
    """`own` are tensors of the state at `place`, without `prefix`."""
    state = {name: tensor for name, tensor in own.items() if not _is_figure(name, tensor)}
    below = [name for name in contents.states[place] if name.removeprefix(prefix) not in state]
    left = [f"{place}.{name}" if place else name for name in below]
    others = [other for other in contents.states if other != place]
    for other in others:
        tensors = contents.states[other]
        count = f"{len(tensors)} tensor{'s' * (len(tensors) > 1)}"
        if not all(_is_figure(name, tensor) for name, tensor in tensors.items()):
            left.append(f"{other} ({count})" if other else f"{count} beside it ({', '.join(list(tensors)[:3])})")
        else:
            left += [other] if other else tensors
    words = [place and f"what lies below {place!r}", prefix and f"names without {prefix!r}"]
    return Part(state, ", ".join(filter(None, words)), (*left, *contents.others))


def _is_figure(name: str, tensor: Tensor) -> bool:
    """Whether it is a number of the training (best_acc1, n_averaged), and no weight: those lie in modules."""
    return "." not in name and tensor.numel() <= 1


def unknown_source(state: State, path: Path) -> str:
    """What a state of no known source may be, and what to do."""
    for prefix in prefixes(state):
        below = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        source = recognise(below)
        if source is not None:
            return (
                f"{path} has names that begin with {prefix!r}, behind which they are those of {source}: "
                f"--prefix {prefix} takes that part"
            )
    return (
        f"{path} has names of none of the sources {', '.join(SOURCES)} "
        f"(its first are {', '.join(list(state)[:3])}); --source NAME tries one all the same, --prefix PREFIX takes a "
        "part"
    )

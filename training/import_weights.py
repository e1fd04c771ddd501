"""Other people's weights as ours: `python -m training.import_weights IN OUT`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch

import stmem_ros
from stmem_ros.checkpoint import (
    NETWORK_SIDES,
    NETWORK_SIDES_TEXT,
    CheckpointError,
    CheckpointInfo,
    Normalization,
    save_checkpoint,
)
from stmem_ros.command import exit_status, require_writable
from stmem_ros.files import user_path
from stmem_ros.network import BASES, SegmenterConfig, build_base, build_segmenter
from stmem_ros.network.bases.timm_backbone import PREFIX
from stmem_ros.network.segmenter import empty_segmenter
from stmem_ros.program import called
from training.data.dataset import DatasetError, DatasetSpec, load_spec
from training.stages.given_memory import load_memory
from training.stages.memory import MemoryBankError
from training.weights.backbone_file import save_backbone
from training.weights.catalog import SOURCES, backbone_shapes, closest_base, recognise, without_prefix
from training.weights.matching import Match, is_counter, match
from training.weights.memory_files import is_memory
from training.weights.parts import Part, read_state, unknown_source
from training.weights.read import WeightsError
from training.weights.rules import Shape, Source, State

# So many names of each kind are printed.
SHOWN = 10
# The one source that a base network's name leads to.
TIMM = "timm"
CITYSCAPES, CITYSCAPES_CLASSES, CITYSCAPES_SIDE = "cityscapes", 19, 1024


class NeededError(WeightsError):
    """An option that a network's names and shapes do not make up for, and that is not given."""


def run(options: argparse.Namespace) -> None:
    """Raises WeightsError and the like, with one line, where nothing is written."""
    path, output = options.input, options.output
    asked = _check(options)
    if is_memory(path):
        _import_memory(options, asked or load_spec(CITYSCAPES))
        return
    told = options.source or (TIMM if (options.base or "").startswith(PREFIX) else None)
    part = read_state(path, options.prefix, recognised=told is None)
    name = told or recognise(part.state)
    if name is None:
        raise WeightsError(unknown_source(part.state, path))
    source = SOURCES[name]
    state = without_prefix(part.state, source)
    base = _base(options.base, name, state, source)
    config = source.network(state, base) if source.network else None
    target, needed = None, ""
    try:
        target = None if config is None else _target(options, config, asked)
    except NeededError as error:
        if not options.dry_run:
            raise
        needed = f"to write it: {error}"
    if config is None:
        _require_network(options)
    matched = match(state, _wanted(config, base), source.rules, source.left_over)
    _print_part(part)
    print(f"{path.name}: {source.about}\n{name} -> {_described(config, base)}")
    if source.note:
        print(f"note: {source.note}")
    print_match(matched)
    if not matched.tensors or (matched.faults and not options.partial):
        raise WeightsError(
            f"{path} matches {name} over {base} only in part: {len(matched.tensors)} tensors of ours found, "
            f"{len(matched.missing)} missing, {len(matched.misfits)} of another shape, {len(matched.unknown)} unknown; "
            + ("nothing was written (--partial takes what fits)" if matched.tensors else "nothing was written")
        )
    broken = next((ours for ours, tensor in matched.tensors.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise WeightsError(
            f"{path} holds NaN or infinity in what becomes {broken}: its training went wrong; not written"
        )
    if options.dry_run:
        if needed:
            print(needed)
        return
    about = _provenance(path, name, part, matched)
    if config is None:
        _write_backbone(output, base, matched, about)
    else:
        assert target is not None
        _write_network(output, config, matched, about, *target)
    print(f"wrote {output}")


def _check(options: argparse.Namespace) -> DatasetSpec | None:
    """What can be known wrong before the file is read; returns the data set that is asked for."""
    path, output = options.input, options.output
    if output is None and not options.dry_run:
        raise WeightsError("give a file to write, or --dry-run")
    if output is not None:
        if output.exists() and path.exists() and output.samefile(path):
            raise WeightsError(f"{output} is the file to read: give another one to write")
        require_writable("OUT", output)
    if options.short_side is not None and options.short_side not in NETWORK_SIDES:
        raise WeightsError(f"--short-side is {options.short_side}; it must be {NETWORK_SIDES_TEXT} pixels")
    return None if options.dataset is None else load_spec(options.dataset)


def _import_memory(options: argparse.Namespace, spec: DatasetSpec) -> None:
    """Raises WeightsError, and MemoryBankError if it cannot be written."""
    of_networks = ("base", "source", "prefix", "short_side", "partial")
    given = [f"--{name.replace('_', '-')}" for name in of_networks if getattr(options, name)]
    if given:
        raise WeightsError(f"{', '.join(given)}: {options.input} is a memory, which has no use for it: leave that out")
    memory = load_memory(options.input, spec.labels)
    classes, keys, channels = memory.keys.shape
    print(
        f"{options.input}: the memory of the authors' generate_memory, for MAR: {keys} keys and a prototype of each of "
        f"{classes} classes ({spec.name}), features of {channels} channels"
    )
    if not options.dry_run:
        about = {
            "package": f"stmem_ros {stmem_ros.__version__}",
            "date": datetime.date.today().isoformat(),
            "dataset": spec.name,
            "imported": str(options.input),
        }
        dataclasses.replace(memory, provenance=about).save(options.output)
        print(f"wrote {options.output}")


def _base(asked: str | None, name: str, state: State, source: Source) -> str:
    bases = [base for base in BASES if re.fullmatch(source.bases, base)] or [f"{PREFIX}NAME"]
    if asked is None and name != TIMM:
        return closest_base(state, source)
    if asked is None:
        raise WeightsError(f"weights of {name} need --base {bases[0]}")
    if not re.fullmatch(source.bases, asked):
        raise WeightsError(f"--base {asked}: weights of {name} are those of {', '.join(bases)}")
    return asked


def _wanted(config: SegmenterConfig | None, base: str) -> dict[str, Shape]:
    if config is None:
        return backbone_shapes(base)
    return {name: tuple(tensor.shape) for name, tensor in empty_segmenter(config).state_dict().items()}


def _described(config: SegmenterConfig | None, base: str) -> str:
    if config is None:
        return f"the backbone of {base}"
    parts = [base, *(["STF"] if config.stf else []), *(["MAR"] if config.mar else [])]
    return f"{' + '.join(parts)}, {config.classes} classes"


def _print_part(part: Part) -> None:
    """Print which part of a file was taken, and what else is in it."""
    if part.taken:
        print(f"taken: {part.taken}")
    if part.left:
        more = f" and {len(part.left) - SHOWN} more" if len(part.left) > SHOWN else ""
        print(f"left in the file: {', '.join(part.left[:SHOWN])}{more}")


def print_match(matched: Match) -> None:
    """Print what is ours now, what is not, and why."""
    print(f"matched      {len(matched.tensors)}")
    for what, names in matched.left_over.items():
        _print_names("left over", list(names), f" ({what})")
    _print_names("as in a new network", list(matched.new), " (the source has none)")
    _print_names("missing", list(matched.missing))
    _print_names("other shape", list(matched.misfits.values()))
    _print_names("unknown", list(matched.unknown))


def _print_names(kind: str, names: list[str], what: str = "") -> None:
    if not names and what:
        return
    print(f"{kind:<12} {len(names)}{what}")
    # Of counts and tables one name says it all.
    shown = names[: 2 if kind == "left over" else SHOWN]
    more = [f"... and {len(names) - len(shown)} more"] if len(names) > len(shown) else []
    for line in (*shown, *more):
        print(f"  {line}")


def _require_network(options: argparse.Namespace) -> None:
    """Raises WeightsError where options are given that a backbone has no use for."""
    settings = {"--dataset": options.dataset, "--short-side": options.short_side}
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise WeightsError(
            f"{' and '.join(given)}: {options.input} becomes a backbone, which has no classes and no size of images: "
            "leave that out"
        )


def _target(options: argparse.Namespace, config: SegmenterConfig, asked: DatasetSpec | None) -> tuple[DatasetSpec, int]:
    """The classes of a network, and the short side of its images. Raises NeededError, and WeightsError."""
    if asked is None and config.classes != CITYSCAPES_CLASSES:
        raise NeededError(
            f"the network has {config.classes} classes, so they are not those of Cityscapes: "
            "--dataset NAME, or a YAML file as in training/datasets, says what they are"
        )
    spec = asked or load_spec(CITYSCAPES)
    if len(spec.labels) != config.classes:
        raise WeightsError(
            f"the network has {config.classes} classes, data set {spec.name} {len(spec.labels)}: give another --dataset"
        )
    if options.short_side is None and not spec.name.startswith(CITYSCAPES):
        raise NeededError(
            f"--short-side is needed for {spec.name}: height or width, whichever is less, in pixels, "
            "of the images that the network was made for"
        )
    return spec, options.short_side or CITYSCAPES_SIDE


def _provenance(path: Path, source: str, part: Part, matched: Match) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {
        "package": f"stmem_ros {stmem_ros.__version__}",
        "date": datetime.date.today().isoformat(),
        "imported": {
            "file": path.name,
            "sha256": digest.hexdigest(),
            "part": part.taken,
            "mapping": source,
            "matched": len(matched.tensors),
            "missing": [*matched.missing, *matched.misfits],
            "unknown": list(matched.unknown),
        },
    }


def _write_backbone(output: Path, base: str, matched: Match, about: dict[str, Any]) -> None:
    tensors = dict(matched.tensors)
    if any(name not in tensors and not is_counter(name) for name in backbone_shapes(base)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tensors = {**build_base(base).backbone.state_dict(), **tensors}
    save_backbone(output, tensors, base, about)


def _write_network(
    output: Path,
    config: SegmenterConfig,
    matched: Match,
    about: dict[str, Any],
    spec: DatasetSpec,
    short_side: int,
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_segmenter(config)
    model.load_state_dict(matched.tensors, strict=False)
    about["stages"] = ["base", *(["stf"] if config.stf else []), *(["mar"] if config.mar else [])]
    about["dataset"] = spec.name
    normalization = Normalization(model.base.mean, model.base.std)
    save_checkpoint(output, model, CheckpointInfo(config, spec.labels, normalization, short_side, about))


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says why nothing was written, 130 on Ctrl-C."""
    width = max(map(len, SOURCES))
    known = [
        textwrap.fill(source.about, 110, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4))
        for name, source in SOURCES.items()
    ]
    parser = argparse.ArgumentParser(
        prog=called("training.import_weights"),
        description="Recognise other people's weights and convert them: a segmentation network becomes a checkpoint "
        "that the node runs, an ImageNet classifier a backbone's file for `python -m training.train --pretrained`, the "
        "authors' key.npy and value.npy a memory for `--memory.file`. "
        "Nothing in the file is run.",
        epilog="sources:\n" + "\n".join(known),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", type=user_path, help="a .pth, .pt or .safetensors file, or key.npy")
    parser.add_argument("output", metavar="OUT", type=user_path, nargs="?", help="write this .safetensors file")
    parser.add_argument(
        "--base", metavar="NAME", help="the base network that it is, or whose backbone (default: what fits best)"
    )
    parser.add_argument(
        "--source", choices=list(SOURCES), metavar="NAME", help="where it comes from (default: recognised by its names)"
    )
    parser.add_argument(
        "--prefix",
        metavar="PREFIX",
        help="take the tensors whose names begin so, or that lie below it, without it: student. or encoder.",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose classes it knows: a name from training/datasets, or one's own YAML "
        "file (default: cityscapes, for 19 classes)",
    )
    parser.add_argument(
        "--short-side",
        metavar="N",
        type=int,
        help="height or width, whichever is less, of the images that it was "
        f"made for (default: {CITYSCAPES_SIDE} for Cityscapes)",
    )
    parser.add_argument("--partial", action="store_true", help="take what fits; the rest is as in a new network")
    parser.add_argument("--dry-run", action="store_true", help="say what matches, and write nothing")
    errors = (CheckpointError, DatasetError, MemoryBankError, WeightsError, ValueError)
    return exit_status("import_weights", lambda: run(parser.parse_args(arguments)), errors, "nothing was written")


if __name__ == "__main__":
    sys.exit(main())

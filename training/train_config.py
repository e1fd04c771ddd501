"""The settings of a training run, as its YAML file and the command line say them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from stmem_ros.checkpoint import NETWORK_SIDES
from stmem_ros.files import one_line
from stmem_ros.network import SegmenterConfig
from stmem_ros.program import called
from training.data.augment import AugmentConfig
from training.data.clip_dataset import ClipConfig
from training.data.clips import WindowConfig
from training.data.text_files import read_yaml
from training.ranges import COUNT, Range, check
from training.stages.base_stage import BaseStageConfig
from training.stages.outcome import STAGES
from training.stages.temporal_stage import TemporalStageConfig

# What PyTorch's and NumPy's generators take.
SEED = Range(0, 2**32 - 1, whole=True)
SIDE = Range(NETWORK_SIDES[0], NETWORK_SIDES[-1], whole=True)
# 0: PyTorch's choice.
THREADS = Range(0, 256, whole=True)


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Memory generation (paper, section 3.3); K_L is `network.mar.hard_per_class`.

    Args:
        confident_per_class: K_H, the most confident features whose mean is a class's prototype
        allow_missing: go on where a class has too few correct features; it gets no memory
        file: a memory to take instead of making one: a file of training.build_memory or training.import_weights, or
            the folder of the authors' key.npy and value.npy
    """

    confident_per_class: int = 10
    allow_missing: bool = False
    file: str | None = None

    def __post_init__(self) -> None:
        check(self, confident_per_class=COUNT)
        if self.file is not None:
            object.__setattr__(self, "file", os.path.expanduser(self.file))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run, as its YAML file says it.

    Args:
        run: folder of checkpoints, logs and the resolved configuration; a run that was stopped goes on from there
        dataset: a name from training/datasets, or the path of one's own YAML file
        root: the folder that the data set lies in
        network: base network, classes, optional modules
        pretrained: a backbone's weights, from training.import_weights; the efficientnet_lite bases bring their own
        start_from: a checkpoint whose base network and classifier stand for stage 1
        seed: of weights, order and augmentation
        short_side: height or width of the training images, whichever is less, in pixels
        base: settings of stage 1
        stf: settings of stage 2
        memory: how the memory is made
        mar: settings of stage 3
        ablation: train MAR without STF too, for the +MAR row of the evaluation
        keep: which weights a stage ends with: those of its last epoch, or those best on the validation split
        keep_cache: keep cached features when the run is over, for another run of the same folder
        augment: random crops
        clips: how clips are made from them
        window: which frames are neighbours
        train_split: the split to learn from
        val_split: the split to validate on
        sequences: learn from these sequences alone (all where empty)
        accelerator: what Lightning trains on
        devices: processes on this machine; start as many with torchrun
        nodes: machines
        threads: CPU threads of each process; 0: as many as PyTorch and OpenCV choose, which is all cores
        precision: of the arithmetic in training
        max_steps: stop each stage after this many steps, for a trial (-1: never)
    """

    run: str
    dataset: str
    root: str
    network: SegmenterConfig
    pretrained: str | None = None
    start_from: str | None = None
    seed: int = 1
    short_side: int = 360
    base: BaseStageConfig = dataclasses.field(default_factory=BaseStageConfig)
    stf: TemporalStageConfig = dataclasses.field(default_factory=TemporalStageConfig)
    memory: MemoryConfig = dataclasses.field(default_factory=MemoryConfig)
    mar: TemporalStageConfig = dataclasses.field(default_factory=TemporalStageConfig)
    ablation: bool = False
    keep: Literal["last", "best"] = "last"
    keep_cache: bool = False
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    clips: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    window: WindowConfig = dataclasses.field(default_factory=WindowConfig)
    train_split: str = "train"
    val_split: str = "val"
    sequences: tuple[str, ...] = ()
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    threads: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    max_steps: int = -1

    def __post_init__(self) -> None:
        for name in ("run", "dataset", "root", "pretrained", "start_from"):
            given = getattr(self, name)
            if given is not None:
                # As a shell would, which sees neither the YAML file nor what follows a "=".
                object.__setattr__(self, name, os.path.expanduser(given))
        check(self, seed=SEED, short_side=SIDE, devices=COUNT, nodes=COUNT, threads=THREADS)
        if self.max_steps != -1 and self.max_steps not in COUNT:
            raise ValueError(f"max_steps is {self.max_steps}; it must be -1 (never) or a number of steps above 0")


# What a person calls the types that the parser asks for.
KINDS = {
    "int": "a whole number",
    "float": "a finite number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "a list, such as [A, B] or [A]",
}
# The settings that check themselves, by their place in a run's settings.
PARTS: dict[str, Callable[..., object]] = {
    "base": BaseStageConfig,
    "stf": TemporalStageConfig,
    "memory": MemoryConfig,
    "mar": TemporalStageConfig,
    "augment": AugmentConfig,
}


def settings_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=called("training.train"),
        usage="python -m training.train CONFIG.yaml [--stage all|base|stf|memory|mar] [--SETTING VALUE ...]",
        description="Train a network from a folder of labelled clips to one checkpoint that the node runs.",
    )
    parser.add_argument("--config", action="config", help="the run's YAML file; may be given as the first word")
    parser.add_argument(
        "--stage", choices=["all", *STAGES], default="all", help="train up to this stage; what is done is kept"
    )
    parser.add_class_arguments(TrainConfig, as_group=True)
    return parser


def check_settings_files(arguments: Sequence[str]) -> None:
    """Raises ValueError, naming the file, where a `--config` among a command's arguments is no UTF-8 YAML file.

    Also where it gives a key twice: the parser takes the last and says nothing.
    """
    files = [later for option, later in itertools.pairwise(arguments) if option == "--config"]
    files += [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    for file in map(os.path.expanduser, files):
        try:
            if os.path.isfile(file):
                read_yaml(Path(file))
        except ValueError as error:
            raise ValueError(f"{file} does not hold the settings of a run: {error}") from error


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """What `arguments` say to the parser of `settings_parser`. Raises ValueError that names setting, value and kind."""
    parser.exit_on_error = False
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        wrong = re.match(r'Parser key "([^"]+)":\s+Expected a (.+?)\. Got value: (.+)', str(error), re.DOTALL)
        kind = wrong and re.fullmatch(r"<class '(\w+)'>|typing\.Literal\[(.+)\]|tuple with (\d) elements", wrong[2])
        if wrong is None or kind is None or (kind[1] and kind[1] not in KINDS):
            raise ValueError(f"{one_line(error)} (--help lists the settings)") from error
        allowed = KINDS[kind[1]] if kind[1] else f"one of {kind[2]}" if kind[2] else f"a list of {kind[3]}"
        raise ValueError(f"{wrong[1]} is {' '.join(wrong[3].split())}; it must be {allowed}") from error


def instantiated(parser: ArgumentParser, parsed: Namespace) -> TrainConfig:
    """What the parser of `settings_parser` read, as settings. Raises ValueError where one is out of range."""
    _check("network", lambda **fields: SegmenterConfig.from_dict(fields), parsed.network.as_dict())
    for name, part in PARTS.items():
        fields = parsed[name].as_dict()
        augment = fields.pop("augment", None)
        _check(name, part, fields)
        if augment is not None:
            _check(f"{name}.augment", AugmentConfig, augment)
    settings = parser.instantiate(parsed).as_dict()
    return TrainConfig(**{field.name: settings[field.name] for field in dataclasses.fields(TrainConfig)})


def _check(name: str, part: Callable[..., object], fields: dict[str, Any]) -> None:
    """Raises ValueError that begins with the place of the field among the settings."""
    try:
        part(**fields)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error

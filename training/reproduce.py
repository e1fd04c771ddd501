"""The paper's tables and figures beside one's own: `python -m training.reproduce table3 --camvid DIR`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from stmem_ros.checkpoint import NETWORK_SIDES, NETWORK_SIDES_TEXT, CheckpointError
from stmem_ros.command import OutputError, exit_status, require_writable
from stmem_ros.files import user_path
from stmem_ros.program import called
from stmem_ros.streaming import DeviceError, resolve_device
from training.data.dataset import DatasetError
from training.paper.accuracy import accuracy_table, table5
from training.paper.configuration import find_configuration
from training.paper.document import Document, NotMeasured
from training.paper.figure10 import figure10
from training.paper.local import FINDERS, Local
from training.paper.sweep import kl_kh
from training.paper.table6 import table6
from training.paper.tables import CITED, TABLE5_SYSTEM, TABLES
from training.stages.memory import MemoryBankError
from training.stages.stage_folder import TrainingError
from training.weights.read import WeightsError

ERRORS = (
    NotMeasured,
    CheckpointError,
    DatasetError,
    DeviceError,
    MemoryBankError,
    TrainingError,
    WeightsError,
    ValueError,
)
Options = argparse.Namespace
TARGETS: dict[str, Callable[[Options, Local], Document]] = {
    **{name: lambda options, local, name=name: accuracy_table(name, local) for name in TABLES},  # type: ignore[misc]
    "table5": lambda options, local: table5(local),
    "table6": lambda options, local: table6(),
    "fig10": figure10,
    "kl_kh": kl_kh,
}
# Options that other targets have no use for.
OPTIONS_OF = {
    "config": ("fig10", "kl_kh"),
    "classes": ("fig10",),
    "features": ("fig10",),
    "below": ("fig10",),
    "hard": ("kl_kh",),
    "confident": ("kl_kh",),
    "set": ("kl_kh",),
}
RUNS = Path("runs")


def options_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called("training.reproduce"),
        description="Put the paper's figures beside one's own. What the data and checkpoints here do not allow is left "
        "out, with the reason. Writes NAME.md and NAME.json into OUTPUT.",
        epilog="Trained networks are looked for as RUNS/CONFIG/model.safetensors, CONFIG being the name of a file in "
        "training/configs or training/configs/paper. What was measured is kept in OUTPUT/evaluations, and measured "
        "again where checkpoint, data, --device or --short-side are others; kl_kh trains in RUNS/CONFIG/kl_kh. A "
        "command that was stopped goes on from there. The status is 1 where nothing could be measured.",
    )
    parser.add_argument("target", choices=[*TARGETS], help="kl_kh is the sweep over the memory's sizes of section 4.3")
    parser.add_argument("--cityscapes", type=user_path, help="the folder with gtFine and leftImg8bit_sequence")
    parser.add_argument(
        "--camvid", type=user_path, help="the folder of CamVid, full size or in the SegNet tutorial's layout"
    )
    parser.add_argument("--runs", type=user_path, default=RUNS, help="folder of training runs (default: runs)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="CONFIG=FILE",
        help="a checkpoint that stands for that configuration's, such as one from training.import_weights; repeatable",
    )
    parser.add_argument("--output", type=user_path, default=Path("reproduction"), help="folder (default: reproduction)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--short-side",
        type=int,
        default=0,
        help="resize the images that are measured to this height or width, whichever is less (default: 0, as the "
        "checkpoint was trained)",
    )
    only = parser.add_argument_group("fig10 and kl_kh")
    only.add_argument(
        "--config",
        help="the name of a file in training/configs or training/configs/paper, or one's own YAML file (default: "
        "cityscapes_pspnet_resnet50, or camvid_lite2 without --cityscapes)",
    )
    only.add_argument(
        "--classes", nargs=2, metavar="NAME", help="fig10: two classes (default: wall and building; CamVid: fence)"
    )
    only.add_argument("--features", type=int, default=100, help="fig10: hard features of each class (default: 100)")
    only.add_argument("--below", type=float, default=0.8, help="fig10: their confidence is below this (default: 0.8)")
    only.add_argument("--hard", type=int, nargs="+", help="kl_kh: values of K_L (default: 10 50 100 300)")
    only.add_argument("--confident", type=int, nargs="+", help="kl_kh: values of K_H (default: 1 5 10 50)")
    only.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE", help="kl_kh: settings of the training")
    return parser


def run(options: Options) -> int:
    """One table or figure as the command line asks for it; what can be wrong with that is found first.

    Returns the status: 1 where nothing could be measured; then what was written before stays. Raises ERRORS.
    """
    check(options)
    if options.config is None:
        options.config = "cityscapes_pspnet_resnet50" if options.cityscapes else "camvid_lite2"
    given = checkpoints(options)
    roots = {"cityscapes": options.cityscapes, "camvid": options.camvid}
    local = Local(
        roots,  # type: ignore[arg-type]
        options.runs,
        given,
        options.output / "evaluations",
        options.device,
        options.short_side,
    )
    with kept_if_used(options.output):
        document = TARGETS[options.target](options, local)
        document.print()
        if not document.measured:
            # What she gave and cannot be used says more than what she did not give.
            reasons = sorted((note for note in document.notes if note != CITED), key=lambda note: "no data" in note)
            raise NotMeasured(
                f"nothing of {options.target} could be measured, so no file is written; {reasons[0]}"
                + (f" (and {len(reasons) - 1} more reasons, above)" if len(reasons) > 1 else "")
            )
        for path in document.write(options.output):
            print(f"wrote {path}")
    return 0


def check(options: Options) -> None:
    """Raises NotMeasured, DeviceError and OSError where an option will not do, whatever the data."""
    defaults = options_parser().parse_args([options.target])
    for name, targets in OPTIONS_OF.items():
        if options.target not in targets and getattr(options, name) != getattr(defaults, name):
            raise NotMeasured(f"--{name} is of {' and '.join(targets)}: {options.target} has no use for it")
    resolve_device(options.device)
    if options.short_side and options.short_side not in NETWORK_SIDES:
        raise NotMeasured(
            f"--short-side is {options.short_side}; it must be 0 (the checkpoint's) or {NETWORK_SIDES_TEXT} pixels"
        )
    for name, find in FINDERS.items():
        root = getattr(options, name)
        if root is not None and not root.is_dir():
            raise NotMeasured(f"--{name} {root}: there is no such folder")
        if root is not None:
            find(root)
    # The usual one need not be there, and kl_kh makes one.
    needed = options.runs.exists() if options.target == "kl_kh" else options.runs != RUNS
    if needed and not options.runs.is_dir():
        raise NotMeasured(f"--runs {options.runs}: there is no such folder")
    require_writable("--output", options.output, folder=True)
    for ending in ("md", "json"):
        require_writable("--output", options.output / f"{options.target}.{ending}")


def checkpoints(options: Options) -> dict[str, Path]:
    """The files given for configurations, by name. Raises NotMeasured; says which ones the target has no use for."""
    own = find_configuration(options.config)
    files: dict[str, Path] = {}
    for text in options.checkpoint:
        name, equals, file = text.partition("=")
        if not (equals and name and file):
            raise NotMeasured(f"--checkpoint {text!r}: it must be CONFIG=FILE, such as camvid_lite2=model.safetensors")
        configuration = own if name in (own.name, options.config) else find_configuration(name, "--checkpoint")
        name = configuration.name
        if not user_path(file).is_file():
            raise NotMeasured(f"--checkpoint {text}: {file} is no file")
        if name in files:
            raise NotMeasured(f"--checkpoint gives {name} twice, {files[name]} and {file}: give one of them")
        files[name] = user_path(file)
    used = {own.name} if options.target in OPTIONS_OF["config"] else systems(options.target)
    for name in files.keys() - used:
        print(f"reproduce: --checkpoint {name}: {options.target} has no row of it", file=sys.stderr)
    return files


def systems(target: str) -> set[str]:
    """Names of the configurations that a table has rows of."""
    configs = {row.system.config for row in TABLES[target].rows if row.system} if target in TABLES else set()
    if target == "table5":
        configs = {TABLE5_SYSTEM[0]}
    return {config.rpartition("/")[2] for config in configs}


@contextlib.contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """Makes a folder, so that one that cannot be made is found at once; takes it away again if it stayed empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {folder} cannot be made: {error.strerror or error}; name another place") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0; 1 after one line on stderr where there is nothing to show; 130 on Ctrl-C."""
    options = options_parser().parse_args(arguments)
    place = f"{options.output / 'evaluations'}"
    if options.target == "kl_kh":
        place += f" and {options.runs}"
    return exit_status(
        "reproduce", lambda: run(options), ERRORS, f"what was measured is kept in {place}, the same command goes on"
    )


if __name__ == "__main__":
    sys.exit(main())

"""The paper's tables and figures beside one's own: `python -m training.reproduce table3 --camvid DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from stmem_ros.checkpoint import CheckpointError
from stmem_ros.streaming import DeviceError
from training.data.dataset import DatasetError
from training.paper.accuracy import accuracy_table, table5
from training.paper.document import Document
from training.paper.figure10 import figure10
from training.paper.local import Local, NotMeasured
from training.paper.sweep import kl_kh
from training.paper.table6 import table6
from training.paper.tables import TABLES
from training.stages.harness import TrainingError
from training.stages.memory import MemoryBankError

Options = argparse.Namespace
TARGETS: dict[str, Callable[[Options, Local], Document]] = {
    **{name: lambda options, local, name=name: accuracy_table(name, local) for name in TABLES},  # type: ignore[misc]
    "table5": lambda options, local: table5(local),
    "table6": lambda options, local: table6(),
    "fig10": figure10,
    "kl_kh": kl_kh,
}


def options_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.reproduce",
        description="Put the paper's figures beside one's own. What the data and checkpoints here do not allow is left "
        "out, with the reason. Writes NAME.md and NAME.json.",
        epilog="Trained networks are looked for as RUNS/CONFIG/model.safetensors, CONFIG being the name of a file in "
        "training/configs or training/configs/paper.",
    )
    parser.add_argument("target", choices=[*TARGETS], help="kl_kh is the sweep over the memory's sizes of section 4.3")
    parser.add_argument("--cityscapes", type=Path, help="the folder with gtFine and leftImg8bit_sequence")
    parser.add_argument(
        "--camvid", type=Path, help="the folder of CamVid, full size or in the SegNet tutorial's layout"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of training runs (default: runs)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="CONFIG=FILE",
        help="a checkpoint that stands for that configuration's, such as one from training.import_weights; repeatable",
    )
    parser.add_argument("--output", type=Path, default=Path("reproduction"), help="folder (default: reproduction)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--short-side", type=int, default=0, help="as evaluate's option of that name")
    only = parser.add_argument_group("fig10 and kl_kh")
    only.add_argument(
        "--config",
        help="a name below training/configs, for kl_kh one's own YAML file too (default: "
        "paper/cityscapes_pspnet_resnet50, or camvid_lite2 without --cityscapes)",
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


def run(options: Options) -> Document:
    """One table or figure as the command line asks for it. Raises NotMeasured, and what its parts raise."""
    given = {}
    for text in options.checkpoint:
        name, equals, file = text.partition("=")
        if not (equals and name and file):
            raise NotMeasured(f"--checkpoint {text!r}: it must be CONFIG=FILE, such as camvid_lite2=model.safetensors")
        if not Path(file).is_file():
            raise NotMeasured(f"--checkpoint {text}: {file} is no file")
        given[name.removeprefix("paper/")] = Path(file)
    if options.output.exists() and not options.output.is_dir():
        raise NotMeasured(f"--output {options.output} is a file; it must be a folder")
    evaluation = ["--device", options.device, "--short-side", str(options.short_side)]
    roots = {"cityscapes": options.cityscapes, "camvid": options.camvid}
    local = Local(roots, options.runs, given, options.output / "evaluations", evaluation)  # type: ignore[arg-type]
    document = TARGETS[options.target](options, local)
    document.print()
    for path in document.write(options.output):
        print(f"wrote {path}")
    return document


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 1 after one line on stderr where there is nothing to show."""
    try:
        run(options_parser().parse_args(arguments))
    except (
        NotMeasured,
        CheckpointError,
        DatasetError,
        DeviceError,
        MemoryBankError,
        TrainingError,
        ValueError,
        OSError,
    ) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

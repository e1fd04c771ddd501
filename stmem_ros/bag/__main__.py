"""The command `python -m stmem_ros.bag`, or `ros2 run stmem_ros bag`: segment, evaluate and make ROS bags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from stmem_ros.bag.io.errors import BagError
from stmem_ros.command import exit_status
from stmem_ros.program import called

COMMANDS = {
    "segment": "label every frame of a bag's cameras and write the labels beside them into a new bag",
    "evaluate": "measure checkpoints on bags, with ground truth or without, and write a report",
    "make": "make a bag from folders of images and label images",
}
# A package's name where it is not what is imported.
PIP_NAMES = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless", "skimage": "scikit-image"}


def load(command: str) -> Any:
    """The module of a subcommand. Raises BagError, which names the package, where one is not installed."""
    try:
        if command == "segment":
            from stmem_ros.bag import segment as module
        elif command == "make":
            from stmem_ros.bag import make as module  # type: ignore[no-redef]
        else:
            from training.bag import evaluate as module  # type: ignore[no-redef]
    except ImportError as error:
        if error.name is None or error.name.startswith("stmem_ros"):
            raise
        package = error.name.partition(".")[0]
        if package == "training":
            raise BagError(
                "evaluate needs the package `training` of this repository: run it from a checkout"
            ) from error
        raise BagError(
            f"{command} needs the Python package {package}, which is not installed: "
            f"pip install {PIP_NAMES.get(package, package)}"
        ) from error
    return module


def parse(arguments: list[str]) -> tuple[argparse.Namespace, Callable[[argparse.Namespace], int | None]]:
    """Only the subcommand that is named is imported. Raises BagError."""
    parser = argparse.ArgumentParser(
        prog=called("stmem_ros.bag"),
        description="ROS bags without ROS: rosbag2 (sqlite3, MCAP, compressed, split) and ROS 1. "
        "Each command has a --help of its own.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    named = next((each for each in arguments if not each.startswith("-")), "")
    work = None
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text)
        if name == named:
            module = load(name)
            subparser.description = module.__doc__
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(subparser)
            work = module.run
    options = parser.parse_args(arguments)
    assert work is not None
    return options, work


def main(arguments: list[str] | None = None) -> int:
    """The command's status: 0, what the subcommand returns, 1 after one line on stderr, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def chosen() -> int:
        options, work = parse(arguments)
        return exit_status(f"bag {options.command}", lambda: work(options), (BagError,))

    return exit_status("bag", chosen, (BagError,))


if __name__ == "__main__":
    sys.exit(main())

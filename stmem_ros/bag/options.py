"""The options of a stream that the bag commands share."""

from __future__ import annotations

import argparse

from stmem_ros.streaming.device import PRECISIONS
from stmem_ros.used_bits import add_used_bits


def add_stream_arguments(group: argparse._ArgumentGroup) -> None:
    """`--window`, `--short-side`, `--max-gap`, `--device` and `--precision`, as `StreamConfig` has them.

    Also `--threads` and `--used-bits`. The defaults are the node's.
    """
    group.add_argument(
        "--window",
        default="causal",
        choices=["causal", "centered"],
        help="label a frame from itself and those before it, or from both neighbours (default: %(default)s, as the "
        "node's; training.evaluate's is centered)",
    )
    group.add_argument(
        "--short-side",
        metavar="PIXELS",
        type=int,
        default=0,
        help="of the network's image, the lesser; 0 as trained, -1 the camera's (default: %(default)s)",
    )
    group.add_argument(
        "--max-gap",
        metavar="SECONDS",
        type=float,
        default=1.0,
        help="between stamps, above which the window is forgotten (default: %(default)s)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", *PRECISIONS],
        help="auto is float16 on a GPU, float32 on a CPU (default: %(default)s)",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=0,
        help="CPU threads of the network; 0 is PyTorch's choice (default)",
    )
    add_used_bits(group)

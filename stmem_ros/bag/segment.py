"""Label every frame of one or several image topics of a bag, with the engine of the node, into a new bag.

The output has the input's topics, and under /segmentation (of several cameras /segmentation/CAMERA) `labels`,
`confidence`, `color`, `label_info` and `camera_info` at the images' stamps and times of recording: play it with
`ros2 bag play`. Every frame is labelled, in the order of the stamps, however long that takes. Where a frame cannot be
decoded the others are labelled all the same, and the end says so.

Status: 0 all frames labelled; 3 finished, but something was lost or skipped, with a line each; 1 stopped by an error,
OUT is not there; 130 stopped by Ctrl-C. After an error, Ctrl-C or a kill, --resume goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

import torch
from tqdm import tqdm

from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.reader import Bag
from stmem_ros.bag.io.writer import LATCHED, BagWriter
from stmem_ros.bag.label_video import write_videos
from stmem_ros.bag.labelling import Labelling, Write
from stmem_ros.bag.messages import OUTPUT_QOS, CameraInfos
from stmem_ros.bag.options import add_stream_arguments
from stmem_ros.bag.plan import OUTPUTS, Plan, make_plan
from stmem_ros.bag.resume import LOST, describe, finished
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError, find_checkpoint
from stmem_ros.files import user_path
from stmem_ros.streaming import DeviceError, NetworkError, StreamConfig, StreamingSegmenter

INCOMPLETE = 3
# What a kill may cost.
PART_SECONDS = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    parser.add_argument(
        "bag", metavar="IN", type=user_path, help="a rosbag2 folder, or a .mcap, .db3 or ROS 1 .bag file"
    )
    parser.add_argument(
        "--out", metavar="OUT", type=user_path, required=True, help="the rosbag2 folder (MCAP) to write"
    )
    parser.add_argument(
        "--image-topic",
        metavar="TOPIC",
        action="append",
        default=[],
        help="an Image or CompressedImage topic, once for each camera (default: the only one there is)",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=user_path,
        default=DEFAULT_CHECKPOINT,
        help="a .safetensors file, or an exported folder (default: the model in the package)",
    )
    add_stream_arguments(network)
    network.add_argument(
        "--as-recorded",
        metavar="TOPIC",
        help="label only the frames whose stamps the label images on this topic have: what a node that dropped frames "
        "labelled, reproduced (with --outputs as they were subscribed to: confidence or not; a centred label before a "
        "new window may differ)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--outputs",
        metavar="NAME",
        nargs="+",
        choices=list(OUTPUTS),
        help=f"of {', '.join(OUTPUTS)} (default: all, camera_info where the bag has a calibration)",
    )
    output.add_argument(
        "--camera-info-topic",
        metavar="TOPIC",
        action="append",
        default=[],
        help="of the calibration, once for each camera (default: camera_info beside the images, where it is beside one "
        "camera's alone)",
    )
    output.add_argument(
        "--namespace", metavar="NAME", default="/segmentation", help="of the outputs (default: %(default)s)"
    )
    output.add_argument("--no-input", action="store_true", help="leave out the input's own topics")
    output.add_argument(
        "--video",
        metavar="FILE",
        type=user_path,
        help="also a side-by-side .mp4; of several cameras one each, FILE_CAMERA.mp4",
    )
    again = output.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on where the same command was stopped, if it was")
    again.add_argument("--overwrite", action="store_true", help="replace OUT, and forget what was begun of it")


def run(options: argparse.Namespace) -> int:
    """The command; returns its status. Raises BagError or OSError, KeyboardInterrupt with what the stop means."""
    try:
        return _run(options)
    except (CheckpointError, DeviceError, NetworkError, torch.cuda.OutOfMemoryError) as error:
        raise BagError(why(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on from there") from None


def _run(options: argparse.Namespace) -> int:
    config = _check(options)
    with Bag(options.bag) as bag:
        plan = make_plan(bag, options)
        if options.threads:
            torch.set_num_threads(options.threads)
        engine = StreamingSegmenter.from_checkpoint(options.checkpoint, config)
        settings = describe(options.bag, find_checkpoint(options.checkpoint), plan, engine)
        lost = finished(options.out, settings) if options.resume else None
        if lost is not None:
            print(f"{options.out} is whole already")
        else:
            lost = _write(options, bag, plan, engine, settings)
        if options.video is not None:
            print(*write_videos(options.video, bag, options.out, plan, engine.info.labels, lost), sep="\n")
        for line in lost:
            print(f"bag segment: {line}", file=sys.stderr)
    return INCOMPLETE if lost else 0


def _check(options: argparse.Namespace) -> StreamConfig:
    if options.threads < 0:
        raise BagError(f"--threads is {options.threads}; it must be a number from 0 on")
    if options.camera_info_topic and options.outputs is not None and "camera_info" not in options.outputs:
        raise BagError("--camera-info-topic needs camera_info among --outputs")
    if options.video is not None:
        if options.outputs is not None and "labels" not in options.outputs:
            raise BagError("--video needs labels among --outputs")
        if options.video.suffix.lower() != ".mp4":
            raise BagError(f"--video {options.video}: its name must end in .mp4")
    if options.out.resolve() == options.bag.resolve():
        raise BagError(f"--out {options.out} is the input: name another place")
    try:
        return StreamConfig(options.window, options.max_gap, options.short_side, options.device, options.precision)
    except ValueError as error:
        raise BagError(why(error)) from error


def _write(
    options: argparse.Namespace, bag: Bag, plan: Plan, engine: StreamingSegmenter, settings: dict[str, str]
) -> list[str]:
    """Write the bag, and tell of it; returns a line for everything that was lost or skipped."""
    lost = list(plan.lost)
    with BagWriter(
        options.out, bag.typestore, resume=options.resume, overwrite=options.overwrite, settings=settings
    ) as writer:
        for topic in plan.passed:
            writer.add(topic, bag.topics[topic].type, bag.topics[topic].qos)
        for camera in plan.cameras:
            for name, topic in camera.outputs.items():
                writer.add(topic, OUTPUTS[name], [LATCHED if name == "label_info" else OUTPUT_QOS])
        infos, wanted = _look_ahead(bag, plan, lost)
        done = sum(writer.counts.values())
        labelling = Labelling(bag, plan, engine, infos, done)
        if done:
            print(f"going on from {writer.partial}: {done} messages are there", file=sys.stderr)
        count = sum(bag.topics[topic].count for topic in plan.frames)
        try:
            with tqdm(total=count, desc=bag.name, unit="frame", disable=None) as bar:
                labelling.run(_in_parts(writer), wanted, bar.update, lambda line: bar.write(line, sys.stderr))
        except BaseException:
            with contextlib.suppress(BagError):
                writer.end_part()
            raise
        results = list(labelling.cameras.values())
        lost += [line for result in results for line in result.losses()]
        if wanted is not None:
            missing = len(wanted) - sum(result.frames - result.left_out for result in results)
            if missing > 0:
                lost.append(f"{missing} stamps on {plan.recorded} are of no image on {plan.frames[0]}")
        if not any(result.labelled for result in results):
            # Nothing to go on from.
            writer.parts.clear()
            raise BagError(f"{bag.path}: no image could be labelled: {'; '.join([*lost, *bag.lost])}")
        lost = [*dict.fromkeys([*lost, *bag.lost])]
        if lost:
            writer.remark(LOST, "\n".join(lost))
    for line in dict.fromkeys([*plan.notes, *bag.notes]):
        print(line)
    for result in results:
        print(result.summary())
    print(f"wrote {options.out}")
    return lost


def _in_parts(writer: BagWriter) -> Write:
    """`writer.write`, with a part that ends every few minutes."""
    began = time.monotonic()

    def write(topic: str, data: bytes | memoryview, recorded_ns: int) -> None:
        nonlocal began
        writer.write(topic, data, recorded_ns)
        if time.monotonic() - began > PART_SECONDS:
            writer.end_part()
            began = time.monotonic()

    return write


def _look_ahead(bag: Bag, plan: Plan, lost: list[str]) -> tuple[dict[str, CameraInfos], set[int] | None]:
    """The calibrations, by topic, and the stamps of the frames to label, None for all: one pass over the bag."""
    infos = {camera.info_topic: CameraInfos(bag) for camera in plan.cameras if camera.info_topic is not None}
    wanted: set[int] = set()
    topics = [*infos, *([plan.recorded] if plan.recorded else [])]
    damaged: dict[str, list[str]] = {}
    for message in bag.messages(topics) if topics else ():
        if message.topic == plan.recorded:
            wanted.add(message.stamp_ns)
            continue
        try:
            infos[message.topic].add(message)
        except BagError as error:
            damaged.setdefault(message.topic, []).append(why(error))
    lost += [f"{len(lines)} messages of {topic} are of no use: {lines[0]}" for topic, lines in damaged.items()]
    return infos, wanted if plan.recorded else None

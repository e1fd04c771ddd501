"""Measure networks on bags: every frame in the order of its stamps, by the engine of the node.

Without ground truth: how steady labels are along optical flow, and how confident. With label images on a topic of the
bag (--truth-topic) or in a folder (--truth), matched by stamp: all figures of training.evaluate, class by class, over
all bags together. Several networks go over the same frames in one pass and are compared figure by figure, with
bootstrap intervals. Labels that are in the bag (--labels-topic) count as one more network's.

Status: 0 all is measured; 3 measured, but something was lost or skipped, with a line each; 1 no figures, with the
reason; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from stmem_ros.bag.fleet.find import find_bags
from stmem_ros.bag.fleet.run import Job, add_fleet_arguments, run_fleet
from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.reader import Bag
from stmem_ros.bag.options import add_stream_arguments
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError
from stmem_ros.command import require_writable
from stmem_ros.files import user_path, whole_file
from stmem_ros.streaming import DeviceError
from training.bag.bootstrap import compare
from training.bag.evaluator import evaluate_bag, label_set
from training.bag.provenance import about, identity
from training.bag.result import RESULT_TYPES, Evaluation, SequenceResult
from training.bag.settings import EvaluationError, EvaluationSettings
from training.bag.summary import document, print_summary, problems
from training.data.dataset import DatasetError
from training.data.label_info import LabelInfo, first_label_info
from training.measure.temporal import add_vc_rule

INCOMPLETE = 3
# Of all bags together, for each network; a bag has at least one of either kind.
SHOTS, WORST = 120, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    parser.add_argument(
        "bags",
        metavar="IN",
        type=user_path,
        nargs="+",
        help="a bag, or a folder: every bag below it, as one evaluation",
    )
    parser.add_argument(
        "--image-topic",
        metavar="TOPIC",
        action="append",
        default=[],
        help="an Image or CompressedImage topic, once for each camera (default: the only one that is no label's)",
    )
    truth = parser.add_argument_group("ground truth")
    truth.add_argument(
        "--truth-topic",
        metavar="TOPIC",
        action="append",
        default=[],
        help="of label images, once for each camera: mono8 ids, or colours",
    )
    truth.add_argument(
        "--truth",
        metavar="FOLDER",
        type=user_path,
        help="of label images named by stamp, 1700000000066666667.png (nanoseconds) or 1700000000.066666667.png "
        "(seconds.nanoseconds, nine digits); of several bags each has its own folder in it, named as the bag",
    )
    truth.add_argument(
        "--dataset",
        metavar="NAME_OR_YAML",
        help="what the values of label images mean: a name from training/datasets or a YAML file (default: they are "
        "the network's class ids, 255 is void)",
    )
    truth.add_argument(
        "--tolerance",
        metavar="SECONDS",
        type=float,
        default=0.001,
        help="that the stamps of a frame and of its label image may differ (default: %(default)s)",
    )
    add_vc_rule(truth)
    network = parser.add_argument_group("networks")
    network.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=user_path,
        action="append",
        default=[],
        help="a .safetensors file or an exported folder, once for each network; the others are compared with the first "
        "(default: the model in the package, or with --labels-topic none)",
    )
    network.add_argument(
        "--labels-topic",
        metavar="TOPIC",
        action="append",
        default=[],
        help="of labels that are in the bag, measured as one more network's; the topic confidence beside it too",
    )
    add_stream_arguments(network)
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", type=user_path, help="all figures, also of every frame")
    output.add_argument(
        "--report", metavar="FILE", type=user_path, help="one HTML file with tables, timelines and pictures"
    )
    several = parser.add_argument_group("many bags")
    add_fleet_arguments(several)
    several.add_argument(
        "--journal",
        metavar="FOLDER",
        type=user_path,
        help="keep the figures of finished bags there until all are done: the same command goes on after a stop",
    )


def run(options: argparse.Namespace) -> int:
    """The command; returns its status. Raises BagError or OSError, KeyboardInterrupt with what the stop means."""
    try:
        return _run(options)
    except (CheckpointError, DatasetError, DeviceError, EvaluationError, torch.cuda.OutOfMemoryError) as error:
        raise BagError(why(error)) from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(*error.args, "nothing was written") from None


def _run(options: argparse.Namespace) -> int:
    write_report = _report_writer(options)
    bags = list(dict.fromkeys(bag for path in options.bags for bag in find_bags(path)))
    settings = settings_of(options, bags)
    # What is wrong for every bag is said once, before the first.
    label_set(settings)
    provenance = about(settings, bags)
    results: Sequence[list[SequenceResult] | None]
    if len(bags) == 1 and options.journal is None and str(options.workers) == "1":
        results, failures, forget = [evaluate_bag(bags[0], settings)], {}, None
    else:
        fleet = run_fleet(
            evaluate_bag,
            [Job(bag, settings) for bag in bags],
            options.workers,
            journal=options.journal,
            types=RESULT_TYPES,
            identity=identity(settings),
            gpus_per_worker=options.gpus_per_worker,
        )
        results, forget = fleet.results, fleet.forget
        failures = {failure.bag: failure.reason for failure in fleet.failures}
    evaluation = merged(settings, bags, results, failures, provenance)
    if not evaluation.sequences:
        raise BagError(f"there are no figures: none of the {len(bags)} bags could be evaluated")
    print_summary(evaluation)
    if options.json is not None:
        _write("--json", options.json, lambda: write_json(evaluation, options.json))
    if write_report is not None:
        _write("--report", options.report, lambda: write_report(evaluation, options.report))
    if forget is not None and not failures:
        forget()
    for line in problems(evaluation):
        print(f"bag evaluate: {line}", file=sys.stderr)
    return 0 if not failures and all(each.complete for each in evaluation.sequences) else INCOMPLETE


def settings_of(options: argparse.Namespace, bags: Sequence[Path]) -> EvaluationSettings:
    """Raises EvaluationError, DatasetError where a bag's class list is none."""
    checkpoints = options.checkpoint or ([] if options.labels_topic else [DEFAULT_CHECKPOINT])
    classes, classes_from = None, "the network"
    if not checkpoints and options.dataset is not None:
        classes_from = f"data set {options.dataset}"
    elif not checkpoints:
        info = _recorded_classes(bags, (*options.labels_topic, *options.truth_topic))
        classes, classes_from = (info.labels(), info.where) if info is not None else (None, "the package's model")
    return EvaluationSettings(
        image_topics=tuple(options.image_topic),
        truth_topics=tuple(options.truth_topic),
        truth_folder=options.truth,
        dataset=options.dataset,
        checkpoints=tuple(checkpoints),
        labels_topics=tuple(options.labels_topic),
        classes=classes,
        classes_from=classes_from,
        window=options.window,
        short_side=options.short_side,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        max_gap=options.max_gap,
        used_bits=options.used_bits,
        tolerance=options.tolerance,
        vc_rule=options.vc_rule,
        shots=max(SHOTS // len(bags), 1),
        worst=max(WORST // len(bags), 1),
    )


def _recorded_classes(bags: Sequence[Path], topics: Sequence[str]) -> LabelInfo | None:
    """The class list beside the first of these topics of label images that has one, of the first such bag."""
    for path in bags:
        # What is wrong with a bag is said when it is evaluated.
        with contextlib.suppress(BagError), Bag(path) as bag:
            info = first_label_info(bag, (f"/{topic.strip('/')}" for topic in topics))
            if info is not None:
                return info
    return None


def merged(
    settings: EvaluationSettings,
    bags: Sequence[Path],
    results: Sequence[list[SequenceResult] | None],
    failures: dict[Path, str],
    provenance: dict[str, str],
) -> Evaluation:
    """The evaluation of all bags, of which `results` has each one's sequences, None where it is among `failures`."""
    names = bag_names(bags)
    sequences = tuple(
        dataclasses.replace(sequence, bag=names[bag])
        for bag, own in zip(bags, results, strict=True)
        for sequence in own or ()
    )
    return Evaluation(
        labels=label_set(settings),
        models=settings.models,
        sequences=sequences,
        has_truth=settings.has_truth,
        failures={names[bag]: line for bag, line in failures.items()},
        settings=provenance,
        comparisons=tuple(compare(settings.models, sequences)),
    )


def bag_names(bags: Sequence[Path]) -> dict[Path, str]:
    """Each bag's name, with as many of its folders as tell all of them apart."""
    parts = {bag: bag.resolve().parts for bag in bags}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {bag: "/".join(each[-count:]) for bag, each in parts.items()}
        if len(set(names.values())) == len(parts):
            break
    return names


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Whole or not at all. Raises OSError."""
    text = json.dumps(document(evaluation), allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + "\n")


def _report_writer(options: argparse.Namespace) -> Callable[[Evaluation, Path], None] | None:
    """See that what is asked for can be written. Raises BagError and OSError."""
    for name, path in (("--json", options.json), ("--report", options.report)):
        if path is not None:
            require_writable(name, path)
    if options.report is None:
        return None
    if options.json is not None and options.json.resolve() == options.report.resolve():
        raise EvaluationError(f"--json and --report both name {options.report}: give each its own file")
    from training.bag.report import ReportError, require_libraries, write_report

    try:
        require_libraries()
    except ReportError as error:
        raise BagError(why(error)) from error
    return write_report


def _write(option: str, path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise BagError(f"{option} {path} cannot be written: {why(error)}; name a place that can be") from error

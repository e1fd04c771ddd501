"""Figure 10: hard features of two classes before and after MAR, in the plane by t-SNE."""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from stmem_ros.checkpoint import CheckpointInfo
from stmem_ros.files import whole_file
from stmem_ros.network import VideoSegmenter
from stmem_ros.preprocess import Preprocessor
from stmem_ros.streaming import resolve_device
from training.data.clips import WindowConfig, Windows
from training.data.dataset import (
    DatasetSpec,
    LabelledFrame,
    list_frames,
    list_images,
    load_spec,
    read_frame,
    require_classes,
)
from training.evaluate import networks_of
from training.measure.rows import row_name
from training.paper.configuration import find_configuration
from training.paper.document import Document, Line, NotMeasured
from training.paper.local import Local, dataset_name
from training.stages.memory import nearest

Array = NDArray[np.float32]
DEFAULT_CLASSES = {"cityscapes": ("wall", "building"), "camvid": ("fence", "building")}
PER_FRAME = 10
COLORS = ("#D55E00", "#0072B2")


def figure10(options: argparse.Namespace, local: Local) -> Document:
    """Raises NotMeasured where an option, data, network or classes will not do, or too few hard features are found."""
    if options.features < 3:
        raise NotMeasured(f"--features is {options.features}; t-SNE needs at least 3 of each class")
    if not 0 < options.below <= 1:
        raise NotMeasured(f"--below is {options.below}; a confidence is above 0 and at most 1")
    configuration = find_configuration(options.config)
    data = local.data_of(configuration)
    spec = load_spec(data.spec)
    names = _classes(options.classes, spec, dataset_name(configuration))
    checkpoint = local.checkpoint(configuration)
    model, judge, info = with_and_without_mar(checkpoint)
    require_classes(info.labels, spec, str(checkpoint))
    if options.short_side:
        info = dataclasses.replace(info, short_side=options.short_side)
    frames = list_frames(spec, data.root, data.split)
    windows = Windows(list_images(spec, data.root, data.split), spec, WindowConfig())
    labels = (spec.labels.names.index(names[0]), spec.labels.names.index(names[1]))
    device = resolve_device(options.device)

    def samples(frame: LabelledFrame) -> tuple[Tensor, Tensor, Tensor]:
        truth = torch.from_numpy(read_frame(frame, spec)[1])[None]
        window = [spec.read_image(path) for path in windows.around(frame, model.window_frames, query)]
        before, after, confidence = refined(model, judge, info, window)
        hard = confidence < options.below
        found = torch.where(hard, nearest(truth, (hard.shape[0], hard.shape[1]))[0].to(device), -1)
        return before, after, found

    query = model.window_frames // 2
    for network in (model, judge):
        network.eval().to(device)
    before, after, seen = collect(frames, samples, labels, options.features, names)
    picture = f"fig10_{configuration.name}.png"
    figure = draw(before, after, names)
    with whole_file(options.output / picture) as partial:
        figure.savefig(partial, dpi=120, format="png")
    source = local.source(checkpoint, data, seen)
    classes = np.repeat([0, 1], options.features)
    lines = [
        Line(
            f"silhouette of {names[0]} and {names[1]}, {when} MAR",
            ours=float(silhouette_score(features, classes)),
            source=source,
        )
        for when, features in (("before", np.concatenate(before)), ("after", np.concatenate(after)))
    ]
    remark = (
        f"{options.features} features of each class whose confidence without MAR is below {options.below}, at most "
        f"{PER_FRAME} of each class from a frame. The silhouette is of the features themselves: how much nearer a "
        "feature is to its own class than to the other. t-SNE places them anew in each picture."
    )
    return Document(
        "fig10",
        "Figure 10: hard features before and after MAR",
        "silhouette, -1 to 1",
        tuple(lines),
        (remark,),
        (picture,),
        digits=3,
    )


def _classes(given: list[str] | None, spec: DatasetSpec, dataset: str | None) -> tuple[str, ...]:
    """The two classes to show. Raises NotMeasured where there are none such."""
    known = ", ".join(spec.labels.names)
    if given is None and dataset is None:
        raise NotMeasured(f"--classes must name two classes of {spec.name}: {known}")
    names = tuple(given or DEFAULT_CLASSES[dataset or ""])
    for name in names:
        if name not in spec.labels.names:
            raise NotMeasured(f"--classes {name}: {spec.name} has {known}")
    if names[0] == names[1]:
        raise NotMeasured(f"--classes names {names[0]} twice; give two of {known}")
    return names


def with_and_without_mar(checkpoint: Path) -> tuple[VideoSegmenter, VideoSegmenter, CheckpointInfo]:
    """The file's network with MAR, and the one beside it without, which says how sure features were; or itself.

    Raises NotMeasured where no network in the file has MAR, and CheckpointError.
    """
    rows = {row_name(info.config): (model, info) for _, model, info in networks_of([checkpoint])}
    for row, without in (("both", "stf"), ("mar", "base")):
        if row in rows:
            model, info = rows[row]
            return model, rows.get(without, rows[row])[0], info
    raise NotMeasured(f"{checkpoint} has no MAR, only {', '.join(rows)}")


@torch.inference_mode()
def refined(
    model: VideoSegmenter, judge: VideoSegmenter, info: CheckpointInfo, window: list[NDArray[np.uint8]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Features `(h, w, C)` of the window's middle frame before and after MAR, and their confidence `(h, w)`."""
    device = next(model.parameters()).device
    preprocess = Preprocessor(info.normalization, info.short_side, device)
    middle = len(window) // 2
    features = [model.features(preprocess(image)) for image in window]
    features = [other if other.shape == features[middle].shape else features[middle] for other in features]
    before = features[middle] if model.stf is None else model.stf(torch.stack(features, 1), middle)
    assert model.mar is not None
    after = model.mar(before)
    logits = judge.classifier(before if judge.mar is None else after)
    confidence = F.avg_pool2d(logits.softmax(1), logits.shape[-1] // before.shape[-1]).amax(1)[0]
    return before[0].permute(1, 2, 0), after[0].permute(1, 2, 0), confidence


def collect(frames, samples, labels, count, names) -> tuple[list[Array], list[Array], int]:  # type: ignore[no-untyped-def]
    """`count` features of each of two classes before and after MAR, at most PER_FRAME of a frame, frames at random.

    The third value is how many frames that took.
    `samples(frame)` gives features before and after `(h, w, C)` and the class `(h, w)` of the hard ones.
    Raises NotMeasured where the split has fewer.
    """
    order = list(frames)
    random.Random(0).shuffle(order)
    generator = torch.Generator().manual_seed(0)
    found: dict[int, list[tuple[Tensor, Tensor]]] = {label: [] for label in labels}
    seen = 0
    for frame in tqdm(order, desc="fig10", unit="frame", disable=None):
        if all(len(pairs) >= count for pairs in found.values()):
            break
        seen += 1
        before, after, classes = samples(frame)
        for label, pairs in found.items():
            places = (classes == label).nonzero().cpu()
            chosen = places[torch.randperm(len(places), generator=generator)[:PER_FRAME]]
            pairs += [(before[row, column].float().cpu(), after[row, column].float().cpu()) for row, column in chosen]
    for label, name in zip(labels, names, strict=True):
        if len(found[label]) < count:
            raise NotMeasured(
                f"only {len(found[label])} hard features of {name} in {seen} frames, {count} are wanted: give a lower "
                "--features, a higher --below or other --classes"
            )
    before, after = (
        [torch.stack([pair[when] for pair in found[label][:count]]).numpy() for label in labels] for when in (0, 1)
    )
    return before, after, seen


def draw(before: list[Array], after: list[Array], names: tuple[str, ...]) -> Figure:
    """Two panels; a list holds the features `(n, C)` of each class."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, features, title in ((left, before, "before MAR"), (right, after, "after MAR")):
        _scatter(axes, features, names)
        axes.set_title(title, fontsize=11)
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _scatter(axes: Axes, features: list[Array], names: tuple[str, ...]) -> None:
    both = np.concatenate(features)
    perplexity = min(30.0, (len(both) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(both)
    split = np.split(points, [len(features[0])])
    for part, name, color, marker in zip(split, names, COLORS, "o^", strict=True):
        axes.scatter(*part.T, s=18, color=color, marker=marker, label=name, alpha=0.8, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])

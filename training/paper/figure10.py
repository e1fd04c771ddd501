"""Figure 10: hard features of two classes before and after MAR, in the plane by t-SNE."""

from __future__ import annotations

import argparse
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
from training.data.dataset import LabelledFrame, list_frames, list_images, load_spec, read_frame, read_image
from training.evaluate import networks_of
from training.measure.rows import row_name
from training.paper.document import Document, Line
from training.paper.local import Local, NotMeasured
from training.stages.memory import nearest

Array = NDArray[np.float32]
DEFAULT_CLASSES = {"cityscapes": ("wall", "building"), "camvid": ("fence", "building")}
PER_FRAME = 10
COLORS = ("#D55E00", "#0072B2")


def figure10(options: argparse.Namespace, local: Local) -> Document:
    """Raises NotMeasured where data, network or classes are missing, or too few hard features are found."""
    config = options.config or ("paper/cityscapes_pspnet_resnet50" if options.cityscapes else "camvid_lite2")
    dataset = "cityscapes" if "cityscapes" in config else "camvid"
    data, checkpoint = local.data(dataset), local.checkpoint(config)
    spec = load_spec(data.spec)
    names = tuple(options.classes or DEFAULT_CLASSES[dataset])
    for name in names:
        if name not in spec.labels.names:
            raise NotMeasured(f"--classes {name}: {spec.name} has {', '.join(spec.labels.names)}")
    if options.features < 3:
        raise NotMeasured(f"--features is {options.features}; t-SNE needs at least 3 of each class")
    model, judge, info = with_and_without_mar(checkpoint)
    frames = list_frames(spec, data.root, data.split)
    windows = Windows(list_images(spec, data.root, data.split), spec, WindowConfig())
    labels = (spec.labels.names.index(names[0]), spec.labels.names.index(names[1]))
    device = resolve_device(options.device)

    def samples(frame: LabelledFrame) -> tuple[Tensor, Tensor, Tensor]:
        truth = torch.from_numpy(read_frame(frame, spec)[1])[None]
        before, after, confidence = refined(model, judge, info, windows.around(frame, model.window_frames, query))
        hard = confidence < options.below
        found = torch.where(hard, nearest(truth, (hard.shape[0], hard.shape[1]))[0].to(device), -1)
        return before, after, found

    query = model.window_frames // 2
    for network in (model, judge):
        network.eval().to(device)
    before, after = collect(frames, samples, labels, options.features, names)
    picture = f"fig10_{config.rpartition('/')[2]}.png"
    figure = draw(before, after, names)
    options.output.mkdir(parents=True, exist_ok=True)
    with whole_file(options.output / picture) as partial:
        figure.savefig(partial, dpi=120, format="png")
    classes = np.repeat([0, 1], options.features)
    lines = [
        Line(f"silhouette of {names[0]} and {names[1]}, {when} MAR", None, float(silhouette_score(features, classes)))
        for when, features in (("before", np.concatenate(before)), ("after", np.concatenate(after)))
    ]
    remark = (
        f"{options.features} features of each class whose confidence without MAR is below {options.below}, from "
        f"{spec.name} {data.split}, network {checkpoint}. The silhouette is of the features themselves, -1 to 1: how "
        "much nearer a feature is to its own class than to the other. t-SNE places them anew in each picture."
    )
    return Document(
        "fig10", "Figure 10: hard features before and after MAR", "silhouette", tuple(lines), (remark,), (picture,)
    )


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
    model: VideoSegmenter, judge: VideoSegmenter, info: CheckpointInfo, window: list[Path]
) -> tuple[Tensor, Tensor, Tensor]:
    """Features `(h, w, C)` of the window's middle frame before and after MAR, and their confidence `(h, w)`."""
    device = next(model.parameters()).device
    preprocess = Preprocessor(info.normalization, info.short_side, device)
    middle = len(window) // 2
    features = [model.features(preprocess(read_image(path))) for path in window]
    features = [other if other.shape == features[middle].shape else features[middle] for other in features]
    before = features[middle] if model.stf is None else model.stf(torch.stack(features, 1), middle)
    assert model.mar is not None
    after = model.mar(before)
    logits = judge.classifier(before if judge.mar is None else after)
    confidence = F.avg_pool2d(logits.softmax(1), logits.shape[-1] // before.shape[-1]).amax(1)[0]
    return before[0].permute(1, 2, 0), after[0].permute(1, 2, 0), confidence


def collect(frames, samples, labels, count, names) -> tuple[list[Array], list[Array]]:  # type: ignore[no-untyped-def]
    """`count` features of each of two classes before and after MAR, at most PER_FRAME of a frame, frames at random.

    `samples(frame)` gives features before and after `(h, w, C)` and the class `(h, w)` of the hard ones.
    Raises NotMeasured where the split has fewer.
    """
    order = list(frames)
    random.Random(0).shuffle(order)
    generator = torch.Generator().manual_seed(0)
    found: dict[int, list[tuple[Tensor, Tensor]]] = {label: [] for label in labels}
    for frame in tqdm(order, desc="fig10", unit="frame", disable=None):
        if all(len(pairs) >= count for pairs in found.values()):
            break
        before, after, classes = samples(frame)
        for label, pairs in found.items():
            places = (classes == label).nonzero().cpu()
            chosen = places[torch.randperm(len(places), generator=generator)[:PER_FRAME]]
            pairs += [(before[row, column].float().cpu(), after[row, column].float().cpu()) for row, column in chosen]
    for label, name in zip(labels, names, strict=True):
        if len(found[label]) < count:
            raise NotMeasured(
                f"only {len(found[label])} hard features of {name}: --features, --below or other --classes"
            )
    before, after = (
        [torch.stack([pair[when] for pair in found[label][:count]]).numpy() for label in labels] for when in (0, 1)
    )
    return before, after


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

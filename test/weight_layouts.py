"""How other people's tensors are called and shaped: names and shapes of their files, as data, and random numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

Layout = dict[str, tuple[int, ...]]

# Two sizes that nobody has, for quick tests: ResNet-23 and Swin nano.
RESNETS = {18: ((2, 2, 2, 2), False), 23: ((1, 2, 2, 2), True), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
# Width, blocks, heads of the first stage.
SWINS = {"nano": (24, (2, 2, 1, 2), 2), "tiny": (96, (2, 2, 6, 2), 3), "base": (128, (2, 2, 18, 2), 4)}
VGG16 = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
VGG16 |= {17: (256, 512)} | {index: (512, 512) for index in (19, 21, 24, 26, 28)}
# Blocks, kernel and output of the stages.
EFFICIENTNETS = {
    "lite0": ((1, 3, 16), (2, 3, 24), (2, 5, 40), (3, 3, 80), (3, 5, 112), (4, 5, 192), (1, 3, 320)),
    "lite2": ((1, 3, 16), (3, 3, 24), (3, 5, 48), (4, 3, 88), (4, 5, 120), (5, 5, 208), (1, 3, 352)),
}


def below(prefix: str, layout: Layout) -> Layout:
    return {f"{prefix}.{name}": shape for name, shape in layout.items()}


def conv(name: str, inputs: int, outputs: int, kernel: int = 1, bias: bool = False) -> Layout:
    weight = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return weight | ({f"{name}.bias": (outputs,)} if bias else {})


def batch_norm(name: str, channels: int) -> Layout:
    layout: Layout = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return layout | {f"{name}.num_batches_tracked": ()}


def linear(name: str, inputs: int, outputs: int) -> Layout:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, channels: int) -> Layout:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def conv_module(name: str, inputs: int, outputs: int, kernel: int = 1) -> Layout:
    """A convolution with batch norm in OpenMMLab's packages."""
    return conv(f"{name}.conv", inputs, outputs, kernel) | batch_norm(f"{name}.bn", outputs)


def resnet(depth: int, stem: str = "plain") -> Layout:
    """`stem` is plain (torchvision, timm), v1c (OpenMMLab) or c (timm's deep one)."""
    if stem == "plain":
        layout = conv("conv1", 3, 64, 7) | batch_norm("bn1", 64)
    else:
        place = "stem" if stem == "v1c" else "conv1"
        layout = conv(f"{place}.0", 3, 32, 3) | batch_norm(f"{place}.1", 32)
        layout |= conv(f"{place}.3", 32, 32, 3) | batch_norm(f"{place}.4", 32) | conv(f"{place}.6", 32, 64, 3)
        layout |= batch_norm("stem.7" if stem == "v1c" else "bn1", 64)
    blocks, bottlenecks = RESNETS[depth]
    inputs = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        outputs = 4 * width if bottlenecks else width
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            if bottlenecks:
                layout |= conv(f"{name}.conv1", inputs, width) | batch_norm(f"{name}.bn1", width)
                layout |= conv(f"{name}.conv2", width, width, 3) | batch_norm(f"{name}.bn2", width)
                layout |= conv(f"{name}.conv3", width, outputs) | batch_norm(f"{name}.bn3", outputs)
            else:
                layout |= conv(f"{name}.conv1", inputs, width, 3) | batch_norm(f"{name}.bn1", width)
                layout |= conv(f"{name}.conv2", width, width, 3) | batch_norm(f"{name}.bn2", width)
            if block == 0 and inputs != outputs:
                layout |= conv(f"{name}.downsample.0", inputs, outputs) | batch_norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return layout


def resnet_classifier(depth: int, stem: str = "plain") -> Layout:
    return resnet(depth, stem) | linear("fc", 2048 if RESNETS[depth][1] else 512, 1000)


def vgg16(naming: str) -> Layout:
    layout: Layout = {}
    for index, (inputs, outputs) in VGG16.items():
        layout |= conv(f"features.{index}", inputs, outputs, 3, bias=True)
    if naming == "torchvision":
        return layout | (
            linear("classifier.0", 25088, 4096)
            | linear("classifier.3", 4096, 4096)
            | linear("classifier.6", 4096, 1000)
        )
    layout |= conv("pre_logits.fc1", 512, 4096, 7, bias=True) | conv("pre_logits.fc2", 4096, 4096, bias=True)
    return layout | linear("head.fc", 4096, 1000)


def efficientnet_lite(variant: str) -> Layout:
    layout = conv("conv_stem", 3, 32, 3) | batch_norm("bn1", 32)
    inputs = 32
    for stage, (blocks, kernel, outputs) in enumerate(EFFICIENTNETS[variant]):
        for block in range(blocks):
            name, hidden = f"blocks.{stage}.{block}", inputs if stage == 0 else 6 * inputs
            depthwise = {f"{name}.conv_dw.weight": (hidden, 1, kernel, kernel)}
            if stage == 0:
                layout |= depthwise | batch_norm(f"{name}.bn1", hidden)
                layout |= conv(f"{name}.conv_pw", hidden, outputs) | batch_norm(f"{name}.bn2", outputs)
            else:
                layout |= conv(f"{name}.conv_pw", inputs, hidden) | batch_norm(f"{name}.bn1", hidden)
                layout |= depthwise | batch_norm(f"{name}.bn2", hidden)
                layout |= conv(f"{name}.conv_pwl", hidden, outputs) | batch_norm(f"{name}.bn3", outputs)
            inputs = outputs
    return layout | conv("conv_head", inputs, 1280) | batch_norm("bn2", 1280) | linear("classifier", 1280, 1000)


class SwinNames(NamedTuple):
    """Names of a Swin's parts; `{s}` is a stage, `{b}` a block. `indices`: whether the index tables are stored."""

    patches: str
    block: str
    mlp: tuple[str, str]
    merging: str
    attention: str = "attn"
    patch_norm: str = "patch_embed.norm"
    indices: bool = True


_BLOCK = "layers.{s}.blocks.{b}"
SWIN_NAMES = {
    "official": SwinNames("patch_embed.proj", _BLOCK, ("mlp.fc1", "mlp.fc2"), "layers.{s}.downsample"),
    "timm": SwinNames("patch_embed.proj", _BLOCK, ("mlp.fc1", "mlp.fc2"), "layers.{next}.downsample", indices=False),
    "torchvision": SwinNames(
        "features.0.0", "features.{odd}.{b}", ("mlp.0", "mlp.3"), "features.{even}", patch_norm="features.0.2"
    ),
    "openmmlab": SwinNames(
        "patch_embed.projection",
        "stages.{s}.blocks.{b}",
        ("ffn.layers.0.0", "ffn.layers.1"),
        "stages.{s}.downsample",
        attention="attn.w_msa",
    ),
}


def places(stage: int) -> dict[str, int]:
    """What the names of a stage are filled in with."""
    return {"s": stage, "next": stage + 1, "odd": 2 * stage + 1, "even": 2 * stage + 2}


def swin(size: str, window: int, naming: str) -> Layout:
    """Without the norms behind the stages."""
    names, (width, depths, heads) = SWIN_NAMES[naming], SWINS[size]
    layout = conv(names.patches, 3, width, 4, bias=True) | norm(names.patch_norm, width)
    for s, depth in enumerate(depths):
        channels = width * 2**s
        for b in range(depth):
            name = names.block.format(b=b, **places(s))
            attention = f"{name}.{names.attention}"
            layout |= norm(f"{name}.norm1", channels) | norm(f"{name}.norm2", channels)
            layout[f"{attention}.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads * 2**s)
            if names.indices:
                cells = window**2
                shape = (cells**2,) if naming == "torchvision" else (cells, cells)
                layout[f"{attention}.relative_position_index"] = shape
            layout |= linear(f"{attention}.qkv", channels, 3 * channels)
            layout |= linear(f"{attention}.proj", channels, channels)
            layout |= linear(f"{name}.{names.mlp[0]}", channels, 4 * channels)
            layout |= linear(f"{name}.{names.mlp[1]}", 4 * channels, channels)
        if s < len(depths) - 1:
            name = names.merging.format(**places(s))
            layout |= {f"{name}.reduction.weight": (2 * channels, 4 * channels)} | norm(f"{name}.norm", 4 * channels)
    return layout


def swin_classifier(size: str, window: int, naming: str) -> Layout:
    last = 8 * SWINS[size][0]
    layout = swin(size, window, naming)
    if naming == "openmmlab":
        return below("backbone", layout | norm("norm3", last)) | linear("head.fc", last, 1000)
    return layout | norm("norm", last) | linear("head.fc" if naming == "timm" else "head", last, 1000)


def pooling(inputs: int, channels: int) -> Layout:
    return {
        name: shape
        for level in range(4)
        for name, shape in conv_module(f"psp_modules.{level}.1", inputs, channels).items()
    }


def psp_head(inputs: int, channels: int, classes: int) -> Layout:
    fused = conv_module("bottleneck", inputs + 4 * channels, channels, 3)
    return conv("conv_seg", channels, classes, bias=True) | pooling(inputs, channels) | fused


def aspp_head(inputs: int, channels: int, classes: int) -> Layout:
    layout = conv("conv_seg", channels, classes, bias=True) | conv_module("image_pool.1", inputs, channels)
    for branch in range(4):
        layout |= conv_module(f"aspp_modules.{branch}", inputs, channels, 3 if branch else 1)
    return layout | conv_module("bottleneck", 5 * channels, channels, 3)


def uper_head(width: int, channels: int, classes: int) -> Layout:
    layout = psp_head(8 * width, channels, classes)
    for level in range(3):
        layout |= conv_module(f"lateral_convs.{level}", width * 2**level, channels)
        layout |= conv_module(f"fpn_convs.{level}", channels, channels, 3)
    return layout | conv_module("fpn_bottleneck", 4 * channels, channels, 3)


def auxiliary_head(inputs: int, channels: int, classes: int) -> Layout:
    return conv("conv_seg", channels, classes, bias=True) | conv_module("convs.0", inputs, channels, 3)


def whole(backbone: Layout, head: Layout, auxiliary: Layout) -> Layout:
    return below("backbone", backbone) | below("decode_head", head) | below("auxiliary_head", auxiliary)


def pspnet(depth: int, classes: int = 19, stem: str = "v1c", channels: int = 0) -> Layout:
    inputs, usual = (2048, 512) if RESNETS[depth][1] else (512, 128)
    channels = channels or usual
    auxiliary = auxiliary_head(inputs // 2, channels // 2, classes)
    return whole(resnet(depth, stem), psp_head(inputs, channels, classes), auxiliary)


def deeplabv3(depth: int, channels: int = 512, classes: int = 19, stem: str = "v1c") -> Layout:
    inputs = 2048 if RESNETS[depth][1] else 512
    auxiliary = auxiliary_head(inputs // 2, channels // 2, classes)
    return whole(resnet(depth, stem), aspp_head(inputs, channels, classes), auxiliary)


def upernet(size: str, window: int, naming: str, channels: int = 512, classes: int = 150) -> Layout:
    width = SWINS[size][0]
    backbone = swin(size, window, naming)
    for level in range(4):
        backbone |= norm(f"norm{level}", width * 2**level)
    return whole(backbone, uper_head(width, channels, classes), auxiliary_head(4 * width, 256, classes))


def stf(channels: int, grid: tuple[int, int], hidden: int = 256) -> Layout:
    layout: Layout = {"pe_enc": (1, channels, 3, *grid), "pe_dec": (1, channels, 1, *grid)}
    for stack, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        layer = f"{stack}.layers.0"
        for attention in attentions:
            for reach in ("short", "long"):
                name = f"{layer}.{attention}.self_attn_{reach}"
                layout |= {f"{name}.in_proj_weight": (3 * channels, channels), f"{name}.in_proj_bias": (3 * channels,)}
                layout |= linear(f"{name}.out_proj", channels, channels)
        layout |= linear(f"{layer}.linear1", channels, hidden) | linear(f"{layer}.linear2", hidden, channels)
        for index in range(1 + len(attentions)):
            layout |= norm(f"{layer}.norm{index + 1}", channels)
    return layout


def mar(channels: int, rows: int = 190) -> Layout:
    half = channels // 2
    layout: Layout = {"memory_key": (1, rows, channels), "memory_value": (1, rows, channels)}
    for part in ("to_q", "to_k", "to_v"):
        for index, shape in enumerate([(channels, channels), (half, channels), (half, half)]):
            layout[f"HEdecoder.attn.{part}.{index}.weight"] = shape
    layout |= linear("HEdecoder.attn.to_out.0", half, channels)
    layout |= norm("HEdecoder.norm1", channels) | norm("HEdecoder.norm2", channels)
    return layout | linear("HEdecoder.linear1", channels, half) | linear("HEdecoder.linear2", half, channels)


def authors(depth: int = 50, grid: tuple[int, int] = (128, 256)) -> Layout:
    """The release is of depth 50, with encodings for 1024 x 2048 pixels."""
    channels = 128 if depth == 18 else 512
    return below("pspnet", pspnet(depth)) | below("STF", stf(channels, grid)) | below("MAR", mar(channels))


def filled(layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    """Random numbers that keep features at a scale of about one, statistics of batch norms among them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in layout.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(("num_batches_tracked", "relative_position_index")):
            state[name] = torch.full(shape, 3)
        elif name.endswith("running_var"):
            state[name] = 1 + 0.3 * noise.tanh()
        elif name.endswith("memory_key"):
            # Scores are not divided by the root of the width, as elsewhere.
            state[name] = 0.05 * noise
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * noise
        elif name.endswith(("bn2.weight", "bn3.weight")):
            # These mostly end a branch that is added to its shortcut: features grow with every block.
            state[name] = 0.3 + 0.1 * noise
        elif len(shape) == 1:
            state[name] = 1 + 0.1 * noise
        elif "relative_position" in name or "pe_" in name or "memory_" in name:
            state[name] = noise
        else:
            # As large as ReLU takes away.
            state[name] = noise * math.sqrt(2 / math.prod(shape[1:]))
    return state


def empty(layout: Layout) -> dict[str, Tensor]:
    """Names and shapes alone: no memory behind them."""
    return {name: torch.empty(shape, device="meta") for name, shape in layout.items()}


# Files: the source that each is of, the base network that it is or whose backbone it has, its layout.
CLASSIFIERS: dict[str, tuple[str, str, Layout]] = {
    "torchvision resnet18": ("torchvision_resnet", "pspnet_resnet18b", resnet_classifier(18)),
    "torchvision resnet50": ("torchvision_resnet", "pspnet_resnet50b", resnet_classifier(50)),
    "torchvision resnet101": ("torchvision_resnet", "pspnet_resnet101b", resnet_classifier(101)),
    "timm resnet50c": ("timm_resnet_c", "pspnet_resnet50", resnet_classifier(50, "c")),
    "timm resnet101c": ("timm_resnet_c", "pspnet_resnet101", resnet_classifier(101, "c")),
    "resnet18_v1c": ("mmpretrain_resnet_v1c", "pspnet_resnet18", resnet_classifier(18, "v1c")),
    "resnet101_v1c": (
        "mmpretrain_resnet_v1c",
        "pspnet_resnet101",
        below("backbone", resnet(101, "v1c")) | linear("head.fc", 2048, 1000),
    ),
    "torchvision vgg16": ("torchvision_vgg16", "dilation8_vgg16", vgg16("torchvision")),
    "timm vgg16": ("timm_vgg16", "dilation8_vgg16", vgg16("timm")),
    "timm tf_efficientnet_lite0": ("timm_efficientnet_lite", "efficientnet_lite0", efficientnet_lite("lite0")),
    "timm tf_efficientnet_lite2": ("timm_efficientnet_lite", "efficientnet_lite2", efficientnet_lite("lite2")),
    "torchvision swin_t": ("torchvision_swin", "upernet_swin_t", swin_classifier("tiny", 7, "torchvision")),
    "torchvision swin_b": ("torchvision_swin", "upernet_swin_b", swin_classifier("base", 7, "torchvision")),
    "timm swin_tiny": ("timm_swin", "upernet_swin_t", swin_classifier("tiny", 7, "timm")),
    "timm swin_base_window12": (
        "timm_swin",
        "upernet_swin_b_window12",
        swin_classifier("base", 12, "timm"),
    ),
    "swin_base": ("swin", "upernet_swin_b", swin_classifier("base", 7, "official")),
    "openmmlab swin_tiny": ("openmmlab_swin", "upernet_swin_t", swin_classifier("tiny", 7, "openmmlab")),
}
NETWORKS: dict[str, tuple[str, str, Layout]] = {
    "pspnet_r18-d8": ("mmsegmentation_pspnet", "pspnet_resnet18", pspnet(18)),
    "pspnet_r50-d8": ("mmsegmentation_pspnet", "pspnet_resnet50", pspnet(50)),
    "pspnet_r101-d8": ("mmsegmentation_pspnet", "pspnet_resnet101", pspnet(101, classes=11)),
    "pspnet_r50b-d8": ("mmsegmentation_pspnet", "pspnet_resnet50b", pspnet(50, stem="plain")),
    "deeplabv3_r101-d8": ("mmsegmentation_deeplabv3", "deeplabv3_resnet101", deeplabv3(101)),
    "deeplabv3_r101b-d8": ("mmsegmentation_deeplabv3", "deeplabv3_resnet101b", deeplabv3(101, stem="plain")),
    "upernet_swin_tiny": ("mmsegmentation_upernet_swin", "upernet_swin_t", upernet("tiny", 7, "openmmlab")),
    "upernet_swin_base_window12": (
        "mmsegmentation_upernet_swin",
        "upernet_swin_b_window12",
        upernet("base", 12, "openmmlab"),
    ),
    "upernet_swin_base of Swin's authors": (
        "swin_upernet",
        "upernet_swin_b",
        upernet("base", 7, "official"),
    ),
}

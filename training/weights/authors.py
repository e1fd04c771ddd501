"""The authors' release: PSPNet-50, STF and MAR under their parameter names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stmem_ros.network import MAR, STF, MARConfig, SegmenterConfig, STFConfig
from training.weights.matching import match
from training.weights.mmsegmentation import AUXILIARY, CLASSIFIER, PSP_HEAD, classes_of
from training.weights.resnet import STAGES, V1C_STEM
from training.weights.rules import Rule, Shape, Source, State, third, under

# What names and shapes do not tell.
HEADS, BLOCK = 2, (16, 16)

_REACH = r"(long|short)"
_PARTS = (
    (r"encoder\.(\d+)\.attention", r"encoder.layers.\1.self_attn"),
    (r"decoder\.(\d+)\.self_attention", r"decoder.layers.\1.self_attn"),
    (r"decoder\.(\d+)\.cross_attention", r"decoder.layers.\1.multihead_attn"),
)
_ATTENTION = (
    *(
        Rule(rf"{ours}\.{_REACH}\.{projection}\.(weight|bias)", rf"{theirs}.self_attn_\2.in_proj_\3", third(index))
        for ours, theirs in _PARTS
        for index, projection in enumerate(("query", "key", "value"))
    ),
    *(Rule(rf"{ours}\.{_REACH}\.out\.(.+)", rf"{theirs}.self_attn_\2.out_proj.\3") for ours, theirs in _PARTS),
)
STF_RULES = (
    Rule("encoder_position", "pe_enc"),
    Rule("decoder_position", "pe_dec"),
    *_ATTENTION,
    Rule(r"(encoder|decoder)\.(\d+)\.feedforward\.0\.(.+)", r"\1.layers.\2.linear1.\3"),
    Rule(r"(encoder|decoder)\.(\d+)\.feedforward\.3\.(.+)", r"\1.layers.\2.linear2.\3"),
    Rule(r"encoder\.(\d+)\.attention_norm\.(.+)", r"encoder.layers.\1.norm1.\2"),
    Rule(r"encoder\.(\d+)\.feedforward_norm\.(.+)", r"encoder.layers.\1.norm2.\2"),
    Rule(r"decoder\.(\d+)\.self_norm\.(.+)", r"decoder.layers.\1.norm1.\2"),
    Rule(r"decoder\.(\d+)\.cross_norm\.(.+)", r"decoder.layers.\1.norm2.\2"),
    Rule(r"decoder\.(\d+)\.feedforward_norm\.(.+)", r"decoder.layers.\1.norm3.\2"),
)


def _memory(rows: Tensor, wanted: Shape) -> Tensor:
    """Their `(1, classes * K_L, d)`, class by class, to `(classes, K_L, d)`, or the first of each class."""
    return rows.squeeze(0).unflatten(0, (wanted[0], -1))[:, : wanted[1]]


MAR_RULES = (
    Rule("keys", "memory_key", _memory),
    Rule("values", "memory_value", _memory),
    Rule(r"theta\.(.+)", r"HEdecoder.attn.to_q.\1"),
    Rule(r"phi\.(.+)", r"HEdecoder.attn.to_k.\1"),
    Rule(r"value\.(.+)", r"HEdecoder.attn.to_v.\1"),
    Rule(r"out\.(.+)", r"HEdecoder.attn.to_out.0.\1"),
    Rule(r"attention_norm\.(.+)", r"HEdecoder.norm1.\1"),
    Rule(r"feedforward_norm\.(.+)", r"HEdecoder.norm2.\1"),
    Rule(r"feedforward\.0\.(.+)", r"HEdecoder.linear1.\1"),
    Rule(r"feedforward\.2\.(.+)", r"HEdecoder.linear2.\1"),
)


def load_stf(state: Mapping[str, np.ndarray | Tensor], heads: int, block: tuple[int, int]) -> STF:
    """The authors' STF in evaluation mode, from their parameter names; `block` is (h_b, w_b) in cells.

    Raises ValueError, naming the tensor, where one is missing, unknown or of another shape.
    """
    tensors = {name: torch.as_tensor(value).float() for name, value in state.items()}
    stf = STF(_get(tensors, "pe_enc", 5).shape[1], _stf_config(tensors, heads, block))
    _fill(stf, tensors, STF_RULES)
    return stf


def load_mar(state: Mapping[str, np.ndarray | Tensor], hard_per_class: int) -> MAR:
    """The authors' MAR in evaluation mode, from their parameter names; `hard_per_class` is K_L.

    Their memory is one row a key, class by class. Where every key of a class has the same value it
    becomes the paper's one prototype a class, else each key keeps its own.
    Raises ValueError, naming the tensor, where one is missing, unknown or of another shape.
    """
    tensors = {name: torch.as_tensor(value).float() for name, value in state.items()}
    mar = MAR(_get(tensors, "memory_key", 3).shape[-1], _mar_config(tensors, hard_per_class))
    _fill(mar, tensors, MAR_RULES)
    return mar


def _get(state: State, name: str, dimensions: int) -> Tensor:
    if name not in state:
        raise ValueError(f"the authors' state has no tensor {name!r}")
    if state[name].ndim != dimensions:
        raise ValueError(
            f"the authors' tensor {name!r} has shape {tuple(state[name].shape)}; it must have {dimensions} dimensions"
        )
    return state[name]


def _stf_config(state: State, heads: int, block: tuple[int, int]) -> STFConfig:
    _, _, frames, *grid = _get(state, "pe_enc", 5).shape
    layers = [re.match(r"encoder\.layers\.(\d+)\.", name) for name in state]
    return STFConfig(
        block=block,
        positional_grid=(grid[0], grid[1]),
        frames=frames,
        depth=1 + max((int(layer[1]) for layer in layers if layer), default=0),
        heads=heads,
        feedforward=_get(state, "encoder.layers.0.linear1.weight", 2).shape[0],
    )


def _mar_config(state: State, hard_per_class: int) -> MARConfig:
    keys, values = _get(state, "memory_key", 3)[0], _get(state, "memory_value", 3)[0]
    if not hard_per_class or len(keys) % hard_per_class or keys.shape != values.shape:
        raise ValueError(
            f"memory_key is {tuple(keys.shape)} and memory_value {tuple(values.shape)}: "
            f"not whole classes of {hard_per_class} hard features"
        )
    values = values.unflatten(0, (-1, hard_per_class))
    shared = torch.equal(values, values[:, :1].expand_as(values))
    return MARConfig(len(values), hard_per_class, 1 if shared else hard_per_class)


def _fill(module: torch.nn.Module, state: State, rules: tuple[Rule, ...]) -> None:
    own = module.state_dict()
    matched = match(state, {name: tuple(tensor.shape) for name, tensor in own.items()}, rules)
    if matched.missing:
        raise ValueError(f"the authors' state has no tensor {matched.missing[0]!r}")
    if matched.misfits:
        raise ValueError(f"the authors' tensor {next(iter(matched.misfits.values()))}")
    if matched.unknown:
        raise ValueError(
            f"the authors' state has tensor {matched.unknown[0]!r}, which {type(module).__name__} does not know"
        )
    module.load_state_dict(matched.tensors)
    module.eval()


def _network(state: State, base: str) -> SegmenterConfig:
    classes = classes_of(state, "pspnet.decode_head.conv_seg.weight")
    parts = {
        part: {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")}
        for part in ("STF", "MAR")
    }
    return SegmenterConfig(
        base,
        classes,
        stf=_stf_config(parts["STF"], HEADS, BLOCK) if parts["STF"] else None,
        mar=_mar_config(parts["MAR"], _get(parts["MAR"], "memory_key", 3).shape[1] // classes)
        if parts["MAR"]
        else None,
    )


SOURCES = {
    "authors": Source(
        about="the authors' release, psp50+STF+MAR, or its stages before that",
        has=(r"pspnet\.backbone\.stem\.0\.weight", r"pspnet\.decode_head\.psp_modules\.0\.1\.conv\.weight"),
        bases=r"pspnet_resnet\d+",
        rules=(
            *under((*V1C_STEM, *STAGES), "base.backbone.", "pspnet.backbone."),
            *under(PSP_HEAD, "base.head.", "pspnet.decode_head."),
            *under(CLASSIFIER, theirs="pspnet.decode_head."),
            *under(STF_RULES, "stf.", "STF."),
            *under(MAR_RULES, "mar.", "MAR."),
        ),
        left_over=((r"pspnet\." + AUXILIARY[0], AUXILIARY[1]),),
        network=_network,
        note="2 heads and blocks of 16 x 16, as in the paper: names and shapes do not tell",
    )
}

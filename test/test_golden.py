"""The authors' modules, loaded under their parameter names, give the authors' outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.weights.authors import load_mar, load_stf

STF_FILES = ("stf_small", "stf_depth2", "stf_interpolated_positions")
MAR_FILES = ("mar_small", "mar_batch")
TOLERANCE = {"rtol": 0, "atol": 1e-5}


class Golden:
    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays = {name: file[name] for name in file.files if name != "meta"}
            self.meta = json.loads(str(file["meta"]))

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    @property
    def state(self) -> dict[str, np.ndarray]:
        return {name[6:]: array for name, array in self.arrays.items() if name.startswith("state/")}


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    folder = shared / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def test_no_golden_file_is_left_out(golden: Path) -> None:
    assert {path.stem for path in golden.glob("*.npz")} == {*STF_FILES, *MAR_FILES}


@pytest.mark.parametrize("name", STF_FILES)
@torch.inference_mode()
def test_stf_equals_the_authors(golden: Path, name: str) -> None:
    file = Golden(golden / f"{name}.npz")
    stf = load_stf(file.state, file.meta["heads"], tuple(file.meta["block"]))
    window = torch.stack([file.tensor(f"input/{frame}") for frame in ("previous", "current", "next")], 1)
    fused, encoded = stf.forward_with_encoded(window)
    torch.testing.assert_close(fused, file.tensor("output/fused"), **TOLERANCE)
    torch.testing.assert_close(encoded.transpose(1, 2), file.tensor("output/encoded"), **TOLERANCE)


@pytest.mark.parametrize("name", MAR_FILES)
@torch.inference_mode()
def test_mar_equals_the_authors(golden: Path, name: str) -> None:
    file = Golden(golden / f"{name}.npz")
    mar = load_mar(file.state, file.meta["hard_per_class"])
    assert mar.config.memory_classes == file.meta["classes"]
    assert mar.config.values_per_class == 1
    refined = mar(file.tensor("input/features"))
    torch.testing.assert_close(refined, file.tensor("output/refined"), **TOLERANCE)


# The rest needs no shared data: states of the authors' names and shapes, with random numbers.

CHANNELS, HIDDEN, CLASSES, HARD = 8, 6, 3, 4


def linear(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
    return {f"{name}.weight": noise(outputs, inputs), f"{name}.bias": noise(outputs)}


def norm(name: str) -> dict[str, np.ndarray]:
    return {f"{name}.weight": noise(CHANNELS), f"{name}.bias": noise(CHANNELS)}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(0, 0.3, shape).astype(np.float32)


def stf_state() -> dict[str, np.ndarray]:
    state = {"pe_enc": noise(1, CHANNELS, 3, 4, 6), "pe_dec": noise(1, CHANNELS, 1, 4, 6)}
    for stack, attentions, norms in (("encoder", ["self_attn"], 2), ("decoder", ["self_attn", "multihead_attn"], 3)):
        layer = f"{stack}.layers.0"
        for attention in attentions:
            for reach in ("self_attn_long", "self_attn_short"):
                prefix = f"{layer}.{attention}.{reach}"
                state[f"{prefix}.in_proj_weight"] = noise(3 * CHANNELS, CHANNELS)
                state[f"{prefix}.in_proj_bias"] = noise(3 * CHANNELS)
                state |= linear(f"{prefix}.out_proj", CHANNELS, CHANNELS)
        for index in range(norms):
            state |= norm(f"{layer}.norm{index + 1}")
        state |= linear(f"{layer}.linear1", HIDDEN, CHANNELS) | linear(f"{layer}.linear2", CHANNELS, HIDDEN)
    return state


def mar_state() -> dict[str, np.ndarray]:
    half, rows = CHANNELS // 2, CLASSES * HARD
    state = {"memory_key": noise(1, rows, CHANNELS)}
    state["memory_value"] = np.repeat(noise(1, CLASSES, CHANNELS), HARD, 1)
    for path in "qkv":
        for index, shape in enumerate([(CHANNELS, CHANNELS), (half, CHANNELS), (half, half)]):
            state[f"HEdecoder.attn.to_{path}.{index}.weight"] = noise(*shape)
    state |= linear("HEdecoder.attn.to_out.0", CHANNELS, half)
    state |= norm("HEdecoder.norm1") | norm("HEdecoder.norm2")
    return state | linear("HEdecoder.linear1", half, CHANNELS) | linear("HEdecoder.linear2", CHANNELS, half)


def load(kind: str, state: dict[str, np.ndarray]) -> torch.nn.Module:
    return load_stf(state, 2, (2, 3)) if kind == "stf" else load_mar(state, HARD)


STATES = {"stf": stf_state, "mar": mar_state}
EVERY_TENSOR = [(kind, name) for kind, make in STATES.items() for name in make()]


@pytest.mark.parametrize("kind", STATES)
def test_loaded_modules_are_in_evaluation_mode(kind: str) -> None:
    assert not load(kind, STATES[kind]()).training


@pytest.mark.parametrize(("kind", "name"), EVERY_TENSOR)
def test_a_missing_tensor_is_named(kind: str, name: str) -> None:
    state = STATES[kind]()
    del state[name]
    with pytest.raises(ValueError, match=f"no tensor '{name}'"):
        load(kind, state)


@pytest.mark.parametrize(("kind", "name"), EVERY_TENSOR)
def test_a_mis_shaped_tensor_is_named(kind: str, name: str) -> None:
    state = STATES[kind]()
    state[name] = state[name][..., :-1]
    # pe_enc says how large the grid is, so it is pe_dec that does not fit; keys and values are named together.
    named = {"pe_enc": "pe_dec", "memory_value": "memory_key"}.get(name, name)
    with pytest.raises(ValueError, match=named):
        load(kind, state)


@pytest.mark.parametrize(("kind", "name"), EVERY_TENSOR)
def test_a_tensor_of_other_dimensions_is_named(kind: str, name: str) -> None:
    state = STATES[kind]()
    state[name] = state[name][..., None]
    with pytest.raises(ValueError, match=name):
        load(kind, state)


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("name", ["surprise", "encoder.layers.0.surprise", "HEdecoder.attn.surprise.weight"])
def test_an_unknown_tensor_is_named(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"tensor '{name}'"):
        load(kind, STATES[kind]() | {name: noise(2)})


def test_memory_that_is_not_whole_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="not whole classes of 5"):
        load_mar(mar_state(), 5)


@torch.inference_mode()
def test_values_that_differ_within_a_class_stay_one_a_key() -> None:
    state = mar_state()
    state["memory_value"] = noise(1, CLASSES * HARD, CHANNELS)
    mar = load_mar(state, HARD)
    assert mar.config.values_per_class == HARD
    features = torch.from_numpy(noise(2, CHANNELS, 3, 5))

    def apply(name: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def chain(path: str, x: np.ndarray) -> np.ndarray:
        for index in range(3):
            x = apply(f"HEdecoder.attn.to_{path}.{index}", x)
        return x

    def normalized(index: int, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * state[f"HEdecoder.norm{index}.weight"] + state[f"HEdecoder.norm{index}.bias"]

    x = features.permute(0, 2, 3, 1).numpy()
    scores = np.exp(chain("q", x) @ chain("k", state["memory_key"][0]).T)
    scores /= scores.sum(-1, keepdims=True)
    x = normalized(1, x + apply("HEdecoder.attn.to_out.0", scores @ chain("v", state["memory_value"][0])))
    x = normalized(2, x + apply("HEdecoder.linear2", np.maximum(apply("HEdecoder.linear1", x), 0)))
    torch.testing.assert_close(mar(features).permute(0, 2, 3, 1).numpy(), x, **TOLERANCE)

"""STF and MAR equal their formulas (design: section 3), written here cell by cell and sharing no code with them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stmem_ros.network import MAR, STF, MARConfig, STFConfig
from stmem_ros.network.attention import BlockGrid
from stmem_ros.network.stf import place_encoding, steady_mean

CHANNELS, HEADS = 8, 2
TOLERANCE = {"rtol": 0, "atol": 1e-5}
Cell = tuple[int, int, int]
Tokens = dict[Cell, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield


def small_stf(block: tuple[int, int], positional_grid: tuple[int, int], depth: int = 1) -> STF:
    stf = STF(CHANNELS, STFConfig(block, positional_grid, depth=depth, heads=HEADS, feedforward=6)).eval()
    for parameter in stf.parameters():
        # Larger than any initialisation, biases and norms too, so that every term shows.
        torch.nn.init.normal_(parameter, std=0.5)
    return stf


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    spread = torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return state[f"{name}.weight"] * (x - x.mean()) / spread + state[f"{name}.bias"]


def feed_forward(state: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    return linear(state, f"{prefix}.3", linear(state, f"{prefix}.0", x).clamp(min=0))


def attend(state: dict[str, Tensor], name: str, query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query among its keys, head by head."""
    width, heads = CHANNELS // HEADS, []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        q = linear(state, f"{name}.query", query)[part]
        scores = torch.stack([q @ linear(state, f"{name}.key", key)[part] / math.sqrt(width) for key in keys])
        shares = scores.exp() / scores.exp().sum()
        mixed = [share * linear(state, f"{name}.value", v)[part] for share, v in zip(shares, values, strict=True)]
        heads.append(torch.stack(mixed).sum(0))
    return linear(state, f"{name}.out", torch.cat(heads))


def naive_icsa(
    state: dict[str, Tensor],
    name: str,
    query: Tokens,
    memory: Tokens,
    query_position: Tokens,
    memory_position: Tokens,
    block: tuple[int, int],
) -> Tokens:
    """The two attentions; only cells that exist take part."""

    def place(cell: Cell) -> tuple[int, int]:
        return cell[1] % block[0], cell[2] % block[1]

    def block_of(cell: Cell) -> tuple[int, int]:
        return cell[1] // block[0], cell[2] // block[1]

    long = {}
    for cell in query:
        seen = [other for other in memory if place(other) == place(cell)]
        keys = [memory[other] + memory_position[other] for other in seen]
        placed = query[cell] + query_position[cell]
        long[cell] = attend(state, f"{name}.long", placed, keys, [memory[other] for other in seen])
    short = {}
    for cell in query:
        seen = [other for other in query if block_of(other) == block_of(cell)]
        keys = [long[other] + query_position[other] for other in seen]
        placed = long[cell] + query_position[cell]
        short[cell] = attend(state, f"{name}.short", placed, keys, [long[other] for other in seen])
    return short


def naive_stf(stf: STF, window: Tensor, query: int) -> Tensor:
    """`(T, C, H, W)` to `(C, H, W)`."""
    state, block = stf.state_dict(), stf.config.block
    frames, _, height, width = window.shape

    def tokens(features: Tensor) -> Tokens:
        cells = [(t, y, x) for t in range(features.shape[0]) for y in range(height) for x in range(width)]
        return {(t, y, x): features[t, :, y, x] for t, y, x in cells}

    def position(name: str, times: int) -> Tokens:
        return tokens(F.interpolate(state[name], (times, height, width), mode="trilinear")[0].transpose(0, 1))

    def add_norm(name: str, x: Tokens, change: Tokens) -> Tokens:
        return {cell: norm(state, name, x[cell] + change[cell]) for cell in x}

    def forward(name: str, x: Tokens) -> Tokens:
        return {cell: feed_forward(state, name, x[cell]) for cell in x}

    at, at_query = position("encoder_position", frames), position("decoder_position", 1)
    encoded, fused = tokens(window), tokens(window[query : query + 1])
    for index in range(stf.config.depth):
        layer = f"encoder.{index}"
        attended = naive_icsa(state, f"{layer}.attention", encoded, encoded, at, at, block)
        encoded = add_norm(f"{layer}.attention_norm", encoded, attended)
        encoded = add_norm(f"{layer}.feedforward_norm", encoded, forward(f"{layer}.feedforward", encoded))
    for index in range(stf.config.depth):
        layer = f"decoder.{index}"
        attended = naive_icsa(state, f"{layer}.self_attention", fused, fused, at_query, at_query, block)
        fused = add_norm(f"{layer}.self_norm", fused, attended)
        attended = naive_icsa(state, f"{layer}.cross_attention", fused, encoded, at_query, at, block)
        fused = add_norm(f"{layer}.cross_norm", fused, attended)
        fused = add_norm(f"{layer}.feedforward_norm", fused, forward(f"{layer}.feedforward", fused))
    rows = [torch.stack([fused[0, y, x] for x in range(width)], 1) for y in range(height)]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("query", [0, 1, 2])
@pytest.mark.parametrize(
    ("grid", "block", "positional_grid"),
    [
        ((4, 6), (2, 3), (4, 6)),  # divides
        ((3, 5), (2, 3), (3, 5)),  # divides neither way
        ((2, 5), (4, 2), (2, 5)),  # lower than a block
        ((3, 2), (4, 3), (2, 4)),  # smaller than a block both ways; positions resized
    ],
)
@torch.inference_mode()
def test_stf_equals_its_formula(
    grid: tuple[int, int], block: tuple[int, int], positional_grid: tuple[int, int], query: int
) -> None:
    stf = small_stf(block, positional_grid)
    window = torch.randn(1, 3, CHANNELS, *grid)
    torch.testing.assert_close(stf(window, query)[0], naive_stf(stf, window[0], query), **TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize(("sharpness", "fading"), [(0.0, 0.0), (4.0, 0.0), (2.0, 1.5)])
def test_the_steady_mean_weighs_frames_by_likeness_and_distance(sharpness: float, fading: float) -> None:
    window, query = torch.randn(2, 3, CHANNELS, 2, 3), torch.tensor([1, 2])
    expected = torch.zeros(2, CHANNELS, 2, 3)
    for n, y, x in itertools.product(range(2), range(2), range(3)):
        frames = window[n, :, :, y, x]
        # Frame 0 is one frame beyond the neighbour of frame 2.
        beyond = torch.tensor([1.0, 0, 0]) if query[n] == 2 else torch.zeros(3)
        weights = (sharpness * torch.corrcoef(frames)[query[n]] - fading * beyond).exp()
        expected[n, :, y, x] = (weights[:, None] * frames).sum(0) / weights.sum()
    torch.testing.assert_close(steady_mean(window, query, sharpness, fading), expected, **TOLERANCE)
    torch.testing.assert_close(steady_mean(window[:1], 1, sharpness, fading), expected[:1], **TOLERANCE)


def test_untrained_parts_that_add_change_nothing() -> None:
    stf, window = STF(CHANNELS, STFConfig((2, 2), (3, 3), stride=2)).eval(), torch.randn(1, 3, CHANNELS, 4, 4)
    assert torch.equal(stf(window), steady_mean(window, 1, stf.config.sharpness, stf.config.fading))
    still = window[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(stf(still), still[:, 0])
    mar = MAR(CHANNELS, MARConfig(3, residual=True))
    assert torch.equal(mar(window[:, 0]), window[:, 0])


def test_at_a_stride_stf_sees_means_and_its_output_is_added() -> None:
    """By hand on a grid whose last column is half a cell: the mean of what there is, upsampled over whole cells."""
    stf, window = small_stf((2, 2), (2, 3)), torch.randn(1, 3, CHANNELS, 4, 5)
    coarse = torch.stack(
        [window[..., y : y + 2, x : x + 2].mean((-2, -1)) for y in (0, 2) for x in (0, 2, 4)], -1
    ).unflatten(-1, (2, 3))
    change = F.interpolate(stf(coarse, 2), (4, 6), mode="bilinear")[..., :5]
    strided = STF(CHANNELS, dataclasses.replace(stf.config, stride=2)).eval()
    strided.load_state_dict(stf.state_dict())
    expected = steady_mean(window, 2, stf.config.sharpness, stf.config.fading) + change
    torch.testing.assert_close(strided(window, 2), expected, **TOLERANCE)
    torch.testing.assert_close(strided(window, torch.tensor([2])), expected, **TOLERANCE)


def test_stf_of_two_layers_equals_its_formula() -> None:
    stf, window = small_stf((2, 2), (3, 3), depth=2), torch.randn(1, 3, CHANNELS, 3, 3)
    torch.testing.assert_close(stf(window)[0], naive_stf(stf, window[0], 1), **TOLERANCE)


@torch.inference_mode()
def test_a_batch_of_windows_equals_each_alone() -> None:
    stf, windows = small_stf((4, 4), (6, 7)), torch.randn(3, 3, CHANNELS, 6, 7)
    alone = torch.cat([stf(window[None], 2) for window in windows])
    torch.testing.assert_close(stf(windows, 2), alone, **TOLERANCE)


@pytest.mark.parametrize("size", [(8, 12), (7, 12), (8, 11), (1, 1), (3, 30)])
def test_a_grid_gives_back_what_it_takes_apart(size: tuple[int, int]) -> None:
    grid = BlockGrid(size, (4, 3), torch.device("cpu"))
    tokens = torch.randn(2, 3, *size, 5)
    padded = grid.pad(tokens)
    assert torch.equal(grid.crop(grid.from_long(grid.long_tokens(padded), 2)), tokens)
    assert torch.equal(grid.crop(grid.from_short(grid.short_tokens(padded), 2)), tokens)


def test_dropout_is_for_training_alone() -> None:
    stf, window = small_stf((2, 2), (3, 3)), torch.randn(1, 3, CHANNELS, 3, 3)
    assert torch.equal(stf(window), stf(window))
    stf.train()
    assert not torch.equal(stf(window), stf(window))


@pytest.mark.parametrize("values_per_class", [1, 4])
@torch.inference_mode()
def test_mar_equals_its_formula(values_per_class: int) -> None:
    mar = MAR(CHANNELS, MARConfig(3, hard_per_class=4, values_per_class=values_per_class)).eval()
    for parameter in mar.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state, features = mar.state_dict(), torch.randn(2, CHANNELS, 3, 5)

    def chain(name: str, x: Tensor) -> Tensor:
        for index in range(3):
            x = state[f"{name}.{index}.weight"] @ x
        return x

    memory = []
    for label in range(3):
        for index in range(4):
            value = state["values"][label, index if values_per_class == 4 else 0]
            memory.append((chain("phi", state["keys"][label, index]), chain("value", value)))
    refined = torch.zeros_like(features)
    for n, y, x in [(n, y, x) for n in range(2) for y in range(3) for x in range(5)]:
        feature = features[n, :, y, x]
        scores = torch.stack([chain("theta", feature) @ key for key, _ in memory])
        shares = scores.exp() / scores.exp().sum()
        mixed = torch.stack([share * value for share, (_, value) in zip(shares, memory, strict=True)]).sum(0)
        feature = norm(state, "attention_norm", feature + linear(state, "out", mixed))
        change = linear(state, "feedforward.2", linear(state, "feedforward.0", feature).clamp(min=0))
        refined[n, :, y, x] = norm(state, "feedforward_norm", feature + change)
    torch.testing.assert_close(mar(features), refined, **TOLERANCE)


def test_memory_can_be_filled_and_must_fit() -> None:
    mar = MAR(CHANNELS, MARConfig(3, hard_per_class=4))
    keys, values = torch.randn(3, 4, CHANNELS), torch.randn(3, 1, CHANNELS)
    mar.set_memory(keys, values)
    assert torch.equal(mar.keys, keys)
    assert torch.equal(mar.values, values)
    with pytest.raises(ValueError, match=r"memory keys are \(3, 5, 8\); this MAR holds \(3, 4, 8\)"):
        mar.set_memory(torch.randn(3, 5, CHANNELS), values)


def test_mar_of_odd_channels_says_why_not() -> None:
    with pytest.raises(ValueError, match="7 is odd"):
        MAR(7, MARConfig(3))


def test_each_window_of_a_batch_may_ask_for_a_frame_of_its_own() -> None:
    torch.manual_seed(0)
    stf = STF(8, STFConfig(block=(2, 3), positional_grid=(4, 6), feedforward=8)).eval()
    windows = torch.randn(3, 3, 8, 4, 6)
    fused = stf(windows, torch.tensor([2, 0, 1]))
    for place, query in enumerate((2, 0, 1)):
        torch.testing.assert_close(fused[place : place + 1], stf(windows[place : place + 1], query))


def test_a_place_resembles_itself_most_before_any_training() -> None:
    places = place_encoding(16, (6, 8)).flatten(1)
    assert torch.equal((places.T @ places).argmax(1), torch.arange(48))

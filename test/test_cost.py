"""Parameters and multiply-accumulates: counted by hand, and the paper's."""

from __future__ import annotations

import pytest

from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.network.segmenter import count_parameters
from training.measure.cost import cost_of, streaming_macs

STF = STFConfig(block=(8, 8), positional_grid=(8, 8), heads=2, feedforward=6)
MAR = MARConfig(memory_classes=3, hard_per_class=5)


def stf_macs(d: int, hidden: int, size: tuple[int, int], block: tuple[int, int], t: int = 3) -> int:
    """The formula for a grid that blocks divide: projections, the two attentions, the feed-forward."""
    cells, inside = size[0] * size[1], block[0] * block[1]
    blocks = cells // inside

    def attention(queries: int, keys: int) -> int:
        long = (2 * queries + 2 * keys) * cells * d**2 + 2 * d * (queries * blocks) * (keys * blocks) * inside
        short = 4 * queries * cells * d**2 + 2 * d * (queries * inside) ** 2 * blocks
        return long + short

    feedforward = 2 * d * hidden * cells
    return attention(t, t) + t * feedforward + attention(1, 1) + attention(1, t) + feedforward


def mar_macs(d: int, memory: int, prototypes: int, cells: int) -> int:
    """The chains theta, phi and value, both matrix products, the way out, the feed-forward."""
    chain = d * d + d * d // 2 + d * d // 4
    return (cells + memory + prototypes) * chain + 2 * cells * memory * d // 2 + cells * d * d // 2 + cells * d * d


def test_each_part_by_hand(pixel_base: str) -> None:
    # The base gives the pixels themselves, 4 channels each, and computes nothing.
    cost = cost_of(SegmenterConfig(pixel_base, 3, 2, STF, MAR), (64, 80))
    assert cost.macs == {
        "base": 0,
        "stf": stf_macs(4, 6, (64, 80), (8, 8)),
        "mar": mar_macs(4, 15, 3, 64 * 80),
        "classifier": 64 * 80 * 4 * 3 * 2**2,
    }


def test_what_a_network_lacks_is_no_part(pixel_base: str) -> None:
    cost = cost_of(SegmenterConfig(pixel_base, 3), (64, 80))
    assert cost.to_dict() == {
        "parameters": 15,
        "gmacs": 64 * 80 * 12 / 1e9,
        "cost": {
            "size": [64, 80],
            "parameters": {"base": 0, "classifier": 15},
            "gmacs": {"base": 0.0, "classifier": 64 * 80 * 12 / 1e9},
        },
    }


def test_totals_are_of_all_parts(pixel_base: str) -> None:
    config = SegmenterConfig(pixel_base, 3, 1, STF, MAR)
    document = cost_of(config, (64, 64)).to_dict()
    assert document["parameters"] == count_parameters(build_segmenter(config))
    assert document["parameters"] == sum(document["cost"]["parameters"].values())
    assert document["gmacs"] == pytest.approx(sum(document["cost"]["gmacs"].values()))


def test_a_streamed_frame_costs_less_only_by_what_is_multiplied_out(pixel_base: str) -> None:
    plain, stf = (SegmenterConfig(pixel_base, 3, 2, part) for part in (None, STF))
    size = (64, 80)
    assert streaming_macs(plain, size) == sum(cost_of(plain, size).macs.values())
    # Of the encoder's long-range projections two frames are kept, and where ways out and in meet one product goes.
    channels, cells = 4, 64 * 80
    once = cells * channels**2
    folded = (3 + 1 + 1) * once
    assert streaming_macs(stf, size) == sum(cost_of(stf, size).macs.values()) - 2 * 3 * once - folded


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (16, 16)])
def test_a_long_memory_is_not_projected_where_that_costs_less(pixel_base: str, size: tuple[int, int]) -> None:
    config = SegmenterConfig(pixel_base, 3, 2, STF)
    channels, cells = 4, size[0] * size[1]
    # Of three frames' blocks one cell each.
    keys = 3 * cells // 64
    once, heads = cells * channels**2, 2
    # As above; then keys and values of three frames go, the queries become two heads', and so do logits and means.
    absorbed = (1 + 2 * 3 - (heads + 1)) * once - 2 * (heads - 1) * keys * channels * cells
    assert (absorbed > 0) == (size != (16, 16))
    less = 2 * 3 * once + 5 * once + max(absorbed, 0)
    assert streaming_macs(config, size) == sum(cost_of(config, size).macs.values()) - less


def test_padding_up_to_whole_blocks_is_computed_too(pixel_base: str) -> None:
    config = SegmenterConfig(pixel_base, 3, 1, STF)
    assert cost_of(config, (65, 80)).macs["stf"] == cost_of(config, (72, 80)).macs["stf"]


def test_the_base_grows_with_the_image() -> None:
    config = SegmenterConfig("efficientnet_lite0", 11)
    small, large = (cost_of(config, size) for size in ((256, 320), (512, 640)))
    assert large.macs["base"] == pytest.approx(4 * small.macs["base"], rel=0.02)
    assert large.parameters == small.parameters


def test_the_papers_modules_cost_what_table_6_says() -> None:
    config = SegmenterConfig("pspnet_resnet50", 19, 1, STFConfig(), MARConfig(19, values_per_class=10))
    macs = cost_of(config, (1024, 2048)).macs
    for part, paper in {"base": 4285.9 / 3, "stf": 563.5, "mar": 31.5}.items():
        assert macs[part] / 1e9 == pytest.approx(paper, rel=0.01)

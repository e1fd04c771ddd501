"""What was measured, as JSON and as one table."""

from __future__ import annotations

from typing import Any

from stmem_ros.benchmark.measure import WARM_UP_ROUNDS, Exactness, Spread
from stmem_ros.benchmark.subject import Subject
from stmem_ros.benchmark.ways import EXPORTED, EXPORTED_WORDS, WAYS, Setting, as_text


def report(
    subject: Subject,
    setting: Setting,
    environment: dict[str, Any],
    times: dict[str, Spread],
    exactness: Exactness,
    memory: dict[str, int],
) -> dict[str, Any]:
    """JSON-ready: every setting, medians and quartiles in milliseconds, peak memory in 10^6 bytes."""
    median = {name: spread.median for name, spread in times.items()}
    return {
        "model": subject.name,
        "checkpoint": subject.checkpoint,
        "config": subject.config.to_dict(),
        "size": list(setting.size),
        "image_size": list(setting.image_size),
        "window": setting.window,
        "window_frames": subject.config.window_frames,
        "seed": subject.seed,
        "rounds": times["fast"].count,
        "warm_up_rounds": WARM_UP_ROUNDS,
        "environment": environment,
        **{f"{name}_ms": value for name, value in median.items()},
        "quartiles_ms": {name: list(spread.quartiles) for name, spread in times.items()},
        "peak_memory_mb": {name: count / 1e6 for name, count in memory.items()},
        "speedup_vs_paper": median["paper_way"] / median["fast"],
        "overhead_vs_base": median["fast"] / median["base"],
        "overhead_vs_plain_base": median["fast"] / median["plain_base"],
        "stf_mar_share": (median["fast"] - median["base"]) / median["base"],
        "max_abs_diff": exactness.max_abs_diff,
        "label_agreement": exactness.label_agreement,
    }


def table(result: dict[str, Any]) -> str:
    """`report`'s dictionary, with `neighbour`, `cameras` and `node` where these were measured, for people."""
    machine = result["environment"]
    weights = result["checkpoint"] or f"random weights, seed {result['seed']}"
    lines = [
        f"{result['model']} ({weights})",
        f"{as_text(result['size'])} (height x width), {result['window']} window of {result['window_frames']}; "
        f"{result['rounds']} rounds after {result['warm_up_rounds']} to warm up",
        f"{machine['dtype']} on {machine['device']} ({machine['device_name']}), {machine['threads']} threads, "
        f"torch {machine['torch']}",
        "",
        f"{'a frame':<54}{'median ms':>10}{'quartiles':>20}{'x base':>8}{'peak MB':>9}",
    ]
    base = result["base_ms"]
    for name, words in (*WAYS.items(), (EXPORTED, EXPORTED_WORDS)):
        if f"{name}_ms" not in result:
            continue
        memory = result["peak_memory_mb"].get(name)
        lines.append(row(words, result[f"{name}_ms"], result["quartiles_ms"][name], base, memory))
    if beside := result.get("neighbour"):
        for kind, words in (("alone", "engine again, alone"), ("busy", "engine beside one busy process")):
            lines.append(row(words, beside[f"{kind}_ms"], beside[f"{kind}_quartiles_ms"], base))
    if cameras := result.get("cameras"):
        for kind, words in (("batch", "as one batch"), ("single", "one by one")):
            label = f"{cameras['cameras']} cameras {words}, fast path, each"
            quartiles = cameras[f"{kind}_quartiles_ms_per_camera"]
            lines.append(row(label, cameras[f"{kind}_ms_per_camera"], quartiles, base))
    lines += [
        "",
        f"faster than the paper's way {result['speedup_vs_paper']:.2f} times; "
        f"{result['overhead_vs_base']:.2f} times the base alone: STF and MAR {result['stf_mar_share']:.0%} on top "
        f"({result['overhead_vs_plain_base']:.2f} times the plain base)",
        f"exact: logits within {result['max_abs_diff']:.1e} of the plain modules', "
        f"{result['label_agreement']:.4%} of labels equal",
    ]
    return "\n".join(lines + neighbour_lines(result.get("neighbour"), machine) + node_lines(result.get("node")))


def neighbour_lines(beside: dict[str, Any] | None, machine: dict[str, Any]) -> list[str]:
    if beside is None:
        return []
    waiting = " ".join(f"{name}={value}" for name, value in machine["openmp"].items()) or "OpenMP's default"
    return [
        f"beside one busy process on {machine['cores']} cores the engine takes {beside['busy_over_alone']:.2f} times "
        f"its time alone, measured by turns ({beside['frames']} frames each); threads wait: {waiting}"
    ]


def row(
    label: str, median: float, quartiles: list[float] | tuple[float, float], base: float, memory: float | None = None
) -> str:
    spread = f"{quartiles[0]:.1f} .. {quartiles[1]:.1f}"
    return f"{label:<54}{median:>10.1f}{spread:>20}{median / base:>8.2f}" + (f"{memory:>9.0f}" if memory else "")


def node_lines(node: dict[str, Any] | None) -> list[str]:
    if node is None:
        return []
    parts = ", ".join(f"{name} {value:.2f}" for name, value in node["node_ms"].items())
    stamps = "every label on the stamp of a frame" if node["stamps_are_frames"] else "LABELS ON STAMPS OF NO FRAME"
    return [
        "",
        f"through the node, {as_text(node['image_size'])} at {node['rate_hz']:g} Hz: "
        f"{node['labels_per_second']:.1f} labels a second, {node['frames_labelled']} of {node['frames_sent']} frames",
        f"stamp to label: p50 {node['latency_ms']['p50']:.1f} ms, p99 {node['latency_ms']['p99']:.1f} ms "
        f"({node['p99_over_p50']:.2f} times); {stamps}",
        f"in the node, p50 ms: {parts}",
    ]

"""`python -m training.reproduce`: the paper's figures beside what the data and weights here give, and why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from training import evaluate
from training.data.dataset import load_spec
from training.paper import local
from training.paper.document import Document, Line
from training.paper.tables import TABLE5, TABLE5_SYSTEM, TABLES
from training.reproduce import main

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
STF = STFConfig(block=(4, 4), positional_grid=(8, 8), heads=1, feedforward=4)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """CamVid in the SegNet tutorial's layout without a test split: half fence, half building, in their colours."""
    spec, root = load_spec("camvid"), tmp_path / "camvid"
    random = np.random.default_rng(0)
    for folder in ("val", "valannot"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        labels = np.full((64, 80), spec.labels.names.index("building"), np.uint8)
        labels[:, : 30 + 5 * number] = spec.labels.names.index("fence")
        image = np.array(spec.labels.palette)[labels] + random.integers(-20, 21, (64, 80, 3))
        name = f"0016E5_{number:05d}.png"
        cv2.imwrite(str(root / "val" / name), image.clip(0, 255).astype(np.uint8)[..., ::-1])
        cv2.imwrite(str(root / "valannot" / name), labels)
    return root


@pytest.fixture
def network(pixel_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with all four rows, of CamVid's classes, that may stand for any configuration's."""
    monkeypatch.setattr(local, "CONFIGS", tmp_path)
    labels = load_spec("camvid").labels
    return save_rows(tmp_path / "network.safetensors", pixel_base, labels)


def save_rows(path: Path, base: str, labels: LabelSet) -> Path:
    mar = MARConfig(memory_classes=len(labels), hard_per_class=2)
    configs = {
        row: SegmenterConfig(base, len(labels), stf=stf, mar=its)
        for row, stf, its in (("base", None, None), ("stf", STF, None), ("mar", None, mar), ("both", STF, mar))
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {row: build_segmenter(config) for row, config in configs.items()}
    normalization = Normalization(models["base"].base.mean, models["base"].base.std)
    info = CheckpointInfo(configs["both"], labels, normalization, 64)
    rows = {row: (models[row], configs[row]) for row in ("base", "stf", "mar")}
    save_checkpoint(path, models["both"], info, rows)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the command, which must succeed; returns the JSON that it wrote."""

    def call(target: str, *more: str | Path) -> dict[str, Any]:
        output = tmp_path / "out"
        assert main([target, "--output", str(output), "--device", "cpu", *map(str, more)]) == 0
        assert (output / f"{target}.md").read_text().startswith("# ")
        return json.loads((output / f"{target}.json").read_text())

    return call


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in document["rows"]}


def test_table_6_is_within_one_percent_of_the_paper(run: Callable[..., dict[str, Any]]) -> None:
    rows = by_name(run("table6"))
    for name, paper in {
        "STF": 563.5,
        "MAR": 31.5,
        "PSPNet-50, 3 frames": 4285.9,
        "PSPNet-101, 3 frames": 6152.9,
    }.items():
        assert rows[name]["paper"] == paper
        assert rows[name]["ours"] == pytest.approx(paper, rel=0.01)
    whole, streamed = (
        rows[f"PSPNet-50 + STF + MAR, a frame, {way}"]["ours"] for way in ("the paper's way", "streamed")
    )
    assert streamed == pytest.approx(whole - 2 / 3 * rows["PSPNet-50, 3 frames"]["ours"])


@pytest.mark.parametrize("table", [*TABLES, "table5"])
def test_without_data_every_figure_has_its_reason(
    run: Callable[..., dict[str, Any]], table: str, tmp_path: Path
) -> None:
    document = run(table, "--runs", tmp_path)
    assert all(row["ours"] is None and row["difference"] is None for row in document["rows"])
    reasons = {row["note"] for row in document["rows"]}
    assert any("--cityscapes FOLDER" in reason or "--camvid FOLDER" in reason for reason in reasons)
    assert any(row["paper"] for row in document["rows"])


def test_every_system_of_a_table_has_a_configuration() -> None:
    systems = {row.system.config for table in TABLES.values() for row in table.rows if row.system} | {TABLE5_SYSTEM[0]}
    assert [name for name in sorted(systems) if not (CONFIGS / f"{name}.yaml").is_file()] == []


def test_the_papers_figures_are_the_papers() -> None:
    def figures(table: str, config: str) -> list[float | None]:
        return [row.paper for row in TABLES[table].rows if row.system and row.system.config.endswith(config)]

    assert figures("table1", "cityscapes_pspnet_resnet18") == [69.79, 74.58]
    assert figures("table1", "cityscapes_pspnet_resnet50") == [76.24, 79.22]
    assert figures("table1", "cityscapes_pspnet_resnet101") == [79.70, 80.96, 80.60]
    assert figures("table1", "upernet_swin_b") == [81.34, 81.67]
    assert figures("table2", "dilation8_vgg16") == [65.3, 67.9, 67.1]
    assert figures("table3", "cityscapes_pspnet_resnet50") == [76.24, 78.75, 78.37, 79.22]
    assert figures("table3", "dilation8_vgg16") == [65.3, 67.5, 67.3, 67.9]
    assert figures("table4", "deeplabv3_resnet101") == [79.5, 79.7, 80.5, 81.0]
    classes = [name for name in TABLE5 if name != "mean"]
    assert tuple(classes) == load_spec("cityscapes").labels.names
    for place, mean in enumerate(TABLE5["mean"]):
        assert np.mean([TABLE5[name][place] for name in classes]) == pytest.approx(mean, abs=0.01)


def test_what_can_be_measured_is(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path, tmp_path: Path
) -> None:
    given = ("--camvid", camvid, "--checkpoint", f"camvid_lite2={network}", "--runs", tmp_path)
    rows = by_name(run("table3", *given))
    data = ["--dataset", "camvid", "--root", str(camvid), "--checkpoint", str(network), "--device", "cpu"]
    assert evaluate.main([*data, "--json", str(tmp_path / "figures.json")]) == 0
    expected = json.loads((tmp_path / "figures.json").read_text())["rows"]
    for row, name in (("base", ""), ("stf", " + STF"), ("mar", " + MAR"), ("both", " + STF + MAR")):
        found = rows[f"CamVid, EfficientNet-Lite2{name}"]
        assert found["ours"] == expected[row]["miou"]
        assert "on val" in found["note"]
    # What was not trained says how to.
    missing = rows["CamVid, PSPNet, ResNet-18"]
    assert missing["ours"] is None and "training/configs/camvid_pspnet_resnet18.yaml" in missing["note"]


def test_another_network_than_the_rows_is_no_figure_of_it(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "CONFIGS", CONFIGS)
    rows = by_name(run("table3", "--camvid", camvid, "--checkpoint", f"camvid_lite2={network}"))
    row = rows["CamVid, EfficientNet-Lite2"]
    assert row["ours"] is None and "is pixels, camvid_lite2 is efficientnet_lite2" in row["note"]


def test_a_data_set_that_changed_is_measured_again(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path
) -> None:
    given = ("table3", "--camvid", camvid, "--checkpoint", f"camvid_lite2={network}")
    first = run(*given)
    for folder in ("val", "valannot"):
        (camvid / folder / "0016E5_00000.png").unlink()
    assert run(*given) != first


def test_what_was_measured_is_not_measured_again(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("table3", "--camvid", camvid, "--checkpoint", f"camvid_lite2={network}")
    first = run(*given)
    monkeypatch.setattr(evaluate, "measure", lambda *_: pytest.fail("measured again"))
    assert run(*given) == first


def test_a_network_that_cannot_be_measured_does_not_stop_the_others(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    rows = by_name(
        run(
            "table3", "--camvid", camvid,
            "--checkpoint", f"camvid_lite2={network}", "--checkpoint", f"paper/camvid_dilation8_vgg16={broken}",
        )
    )  # fmt: skip
    assert "damaged" in rows["CamVid, Dilation8"]["note"]
    assert rows["CamVid, EfficientNet-Lite2"]["ours"] is not None


def test_figure_10_shows_hard_features_of_two_classes(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path, tmp_path: Path
) -> None:
    document = run(
        "fig10", "--camvid", camvid, "--checkpoint", f"camvid_lite2={network}", "--below", "1", "--features", "12"
    )
    assert [row["name"] for row in document["rows"]] == [
        f"silhouette of fence and building, {when} MAR" for when in ("before", "after")
    ]
    # The colours themselves, which differ.
    assert 0.2 < document["rows"][0]["ours"] <= 1
    picture = cv2.imread(str(tmp_path / "out" / document["pictures"][0]))
    assert min(picture.shape[:2]) > 300 and picture.std() > 5


@pytest.fixture
def trained(pixel_base: str, make_shapes: Callable[..., Path], tmp_path: Path) -> Path:
    """One's own configuration, of which everything before MAR is trained."""
    data = make_shapes(tmp_path / "data", {"train": 4, "val": 2}, size=(64, 64), noise=20)
    stage = {"epochs": 1, "batch_size": 2, "workers": 0, "rate": 0.01}
    document = {
        "run": str(tmp_path / "runs" / "mine"),
        "dataset": str(data),
        "root": str(data.parent),
        "network": {"base": pixel_base, "classes": 3, "mar": {"memory_classes": 3, "hard_per_class": 2}},
        "start_from": str(tmp_path / "base.safetensors"),
        "short_side": 64,
        "augment": {"crop": [32, 32]},
        "mar": stage,
    }
    labels = load_spec(str(data)).labels
    config = SegmenterConfig(pixel_base, 3)
    model = build_segmenter(config)
    mean, std = torch.tensor(model.base.mean), torch.tensor(model.base.std)
    colors = (torch.tensor(labels.palette) - mean) / std
    with torch.no_grad():
        model.classifier.linear.weight[:, :3, 0, 0] = 2 * colors
        model.classifier.linear.bias.copy_(-colors.square().sum(1))
    info = CheckpointInfo(config, labels, Normalization(model.base.mean, model.base.std), 64)
    base = tmp_path / "runs" / "mine" / "base" / "base.safetensors"
    save_checkpoint(base, model, info)
    document["start_from"] = str(base)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.usefixtures("training_environment")
def test_the_sweep_trains_mar_for_each_size_of_memory(
    run: Callable[..., dict[str, Any]], trained: Path, tmp_path: Path
) -> None:
    sizes = ("--hard", "2", "5", "--confident", "1", "3")
    document = run("kl_kh", "--config", trained, "--runs", tmp_path / "runs", *sizes)
    assert [row["name"] for row in document["rows"]] == [
        f"K_L = {hard}, K_H = {confident}" for hard in (2, 5) for confident in (1, 3)
    ]
    assert all(0 < row["ours"] <= 100 for row in document["rows"])


REFUSED = [
    (["table1", "--checkpoint", "file"], "CONFIG=FILE"),
    (["table1", "--checkpoint", "camvid_lite2=nowhere.pth"], "nowhere.pth is no file"),
    (["fig10"], "--camvid FOLDER"),
    (["fig10", "--camvid", "nowhere"], "no CamVid in nowhere"),
    (["fig10", "--cityscapes", "nowhere"], "no Cityscapes in nowhere"),
    (["fig10", "--camvid", "{camvid}", "--classes", "wall", "building"], "--classes wall: camvid has sky"),
    (["fig10", "--camvid", "{camvid}", "--features", "2"], "at least 3"),
    (["fig10", "--camvid", "{camvid}", "--below", "0"], "only 0 hard features of fence"),
    (["kl_kh", "--config", "nowhere"], "there is no"),
    (["kl_kh", "--config", "camvid_lite2", "--camvid", "{camvid}", "--runs", "nowhere"], "--stage stf"),
    (["kl_kh", "--config", "camvid_lite2", "--camvid", "{camvid}", "--set", "mar.epochs"], "SETTING=VALUE"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_had_is_one_line(
    arguments: list[str], message: str, camvid: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(camvid=camvid) for word in arguments]
    if words[0] == "fig10":
        words += ["--checkpoint", f"camvid_lite2={network}"]
    assert main([*words, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("reproduce: ") and message in said[-1]
    assert not list((tmp_path / "out").glob("*.md"))


def test_a_document_names_each_reason_once() -> None:
    lines = (Line("a|b", 2.0, 1.0, "why"), Line("c", None, 3.0, "why"), Line("d", 4.0, None, "because"))
    text = Document("t", "Title", "x", lines, ("Remark.",), relative=True).markdown()
    assert "| a\\|b | 2.00 | 1.00 | -50.00 | 1 |" in text
    assert "| d | 4.00 | - | - | 2 |" in text
    assert "1. why\n2. because\n" in text

"""`python -m training.reproduce`: the paper's figures beside what the data and weights here give, and why not."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from stmem_ros.checkpoint import CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from training import evaluate, reproduce
from training.data.dataset import load_spec
from training.paper import configuration
from training.paper.configuration import find_configuration
from training.paper.document import Document, Line, Source
from training.paper.tables import TABLE5, TABLE5_SYSTEM, TABLES
from training.reproduce import main, options_parser

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
    for file in CONFIGS.rglob("*.yaml"):
        document = yaml.safe_load(file.read_text())
        if "network" in document:
            document["network"]["base"] = pixel_base
        copy = tmp_path / "configs" / file.relative_to(CONFIGS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(yaml.safe_dump(document))
    monkeypatch.setattr(configuration, "CONFIGS", tmp_path / "configs")
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
        rows[f"PSPNet-50 + STF + MAR, a frame, {way}"]["ours"] for way in ("the paper's way", "its features kept")
    )
    assert streamed == pytest.approx(whole - 2 / 3 * rows["PSPNet-50, 3 frames"]["ours"])
    assert rows["PSPNet-50 + STF + MAR, a frame, the engine"]["ours"] < 0.8 * streamed


@pytest.mark.parametrize("table", [*TABLES, "table5"])
def test_without_data_nothing_is_written_and_every_figure_has_its_reason(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = [tmp_path / f"{table}.md", tmp_path / f"{table}.json"]
    for file in earlier:
        file.write_text("earlier")
    assert main([table, "--runs", str(tmp_path), "--output", str(tmp_path)]) == 1
    assert [file.read_text() for file in earlier] == ["earlier", "earlier"]
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and f"nothing of {table} could be measured" in printed.err
    for text in (printed.out, printed.err):
        assert "--cityscapes FOLDER" in text or "--camvid FOLDER" in text
    assert "paper" in printed.out and "wrote" not in printed.out


def test_a_command_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    assert main(["table1", "--output", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


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
        assert found["source"] == {
            "checkpoint": str(network),
            "sha256": hashlib.sha256(network.read_bytes()).hexdigest(),
            "dataset": "camvid",
            "split": "val",
            "frames": 4,
            "short_side": 64,
        }
    text = (tmp_path / "out" / "table3.md").read_text()
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()[:12]
    assert f"- a: {network} (sha256 {sha256}) on 4 frames of camvid val, short side 64" in text
    # What was not trained says how to, over the data and into the runs that were given.
    missing = rows["CamVid, Dilation8"]
    assert missing["ours"] is None and missing["source"] is None
    command = shlex.split(missing["note"].partition(": ")[2].partition(", or --checkpoint")[0])
    assert command[:3] == ["python", "-m", "training.train"] and Path(command[3]).is_file()
    given = dict(zip(command[4::2], command[5::2], strict=True))
    assert given["--root"] == str(camvid) and given["--run"] == str(tmp_path / "camvid_dilation8_vgg16")
    assert (given["--dataset"], given["--train_split"], given["--val_split"]) == ("camvid", "train", "val")


def test_the_size_of_the_images_is_that_of_the_command_line(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def measure(options: argparse.Namespace) -> None:
        sizes.append(options.short_side)
        options.json.parent.mkdir(exist_ok=True)
        options.json.write_text(json.dumps({"rows": {"base": {"miou": 50.0}}}))

    monkeypatch.setattr(evaluate, "run", measure)
    given = ("table3", "--camvid", camvid, "--checkpoint", f"camvid_lite2={network}")
    for size in (96, 128):
        row = by_name(run(*given, "--short-side", str(size)))["CamVid, EfficientNet-Lite2"]
        assert (row["ours"], row["source"]["short_side"]) == (50.0, size)
    assert sizes == [96, 128]


def test_another_network_than_the_rows_is_no_figure_of_it(
    camvid: Path,
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(configuration, "CONFIGS", CONFIGS)
    words = ["table3", "--camvid", camvid, "--checkpoint", f"camvid_lite2={network}", "--output", tmp_path / "out"]
    assert main([*map(str, words)]) == 1
    assert "is pixels, camvid_lite2 is efficientnet_lite2" in capsys.readouterr().out


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


def test_figure_10_looks_at_images_of_the_size_that_is_given(
    run: Callable[..., dict[str, Any]], camvid: Path, network: Path
) -> None:
    given = ("--camvid", camvid, "--checkpoint", f"camvid_lite2={network}", "--below", "1", "--features", "5")
    large = run("fig10", *given, "--short-side", "96")["rows"][0]
    assert large["source"]["short_side"] == 96
    assert large["ours"] != run("fig10", *given)["rows"][0]["ours"]


@pytest.mark.parametrize("form", ["{name}", "paper/{name}", "{name}.yaml", "{configs}/paper/{name}.yaml"])
def test_a_configuration_has_several_names(form: str) -> None:
    name = "cityscapes_pspnet_resnet50"
    found = find_configuration(form.format(name=name, configs=CONFIGS))
    assert found.file == CONFIGS / "paper" / f"{name}.yaml" and not found.own
    assert (found.name, found.dataset, found.base) == (name, "cityscapes", "pspnet_resnet50")


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
    run: Callable[..., dict[str, Any]], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--hard", "2", "5", "--confident", "1", "3")
    document = run("kl_kh", "--config", trained, "--runs", tmp_path / "runs", *sizes)
    assert [row["name"] for row in document["rows"]] == [
        f"K_L = {hard}, K_H = {confident}" for hard in (2, 5) for confident in (1, 3)
    ]
    assert all(0 < row["ours"] <= 100 for row in document["rows"])
    assert len({row["source"]["sha256"] for row in document["rows"]}) == 4
    folder = tmp_path / "runs" / "mine" / "kl_kh"
    assert not (folder / "cache").exists()
    # Trained networks stay as they are: other settings are refused with what to do.
    words = ["kl_kh", "--config", trained, "--runs", tmp_path / "runs", "--output", tmp_path, "--set", "seed=2"]
    capsys.readouterr()
    assert main([*map(str, words), *sizes]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "seed = 1, now it is 2" in said and f"delete {folder / 'kl2_kh1'}" in said and "--runs" in said


@pytest.mark.usefixtures("training_environment")
def test_the_sweep_takes_the_network_before_mar_out_of_a_whole_file(
    run: Callable[..., dict[str, Any]], trained: Path, tmp_path: Path
) -> None:
    base, info = load_checkpoint(tmp_path / "runs" / "mine" / "base" / "base.safetensors")
    config = dataclasses.replace(info.config, mar=MARConfig(memory_classes=3, hard_per_class=2))
    whole = tmp_path / "whole.safetensors"
    own = dataclasses.replace(info, config=config)
    save_checkpoint(whole, build_segmenter(config), own, {"base": (base, info.config)})
    sizes = ("--hard", "2", "--confident", "2", "--runs", tmp_path / "new", "--set", "max_steps=1")
    document = run("kl_kh", "--config", trained, "--checkpoint", f"mine={whole}", *sizes)
    assert [row["name"] for row in document["rows"]] == ["K_L = 2, K_H = 2"]
    assert "max_steps=1" in document["remarks"][0]
    taken, _ = load_checkpoint(tmp_path / "new" / "mine" / "kl_kh" / "base.safetensors")
    assert torch.equal(taken.classifier.linear.weight, base.classifier.linear.weight)


LITE2 = ["--camvid", "{camvid}", "--checkpoint", "camvid_lite2={network}"]
REFUSED = [
    (["table1", "--checkpoint", "file"], "CONFIG=FILE"),
    (["table1", "--checkpoint", "camvid_lite2=nowhere.pth"], "nowhere.pth is no file"),
    (["table3", "--checkpoint", "camvid_lite={network}"], "near it are camvid_lite2, camvid_lite0"),
    (["table3", "--checkpoint", "zzz={network}"], "no such configuration; there are camvid_dilation8_vgg16, "),
    (["table3", *LITE2, "--checkpoint", "camvid_lite2={network}"], "camvid_lite2 twice"),
    (["table3", *LITE2, "--checkpoint", "camvid_lite2.yaml={network}"], "camvid_lite2 twice"),
    (["table3", *LITE2, "--device", "gpu9"], "device is 'gpu9'; it must be auto, cpu, cuda or cuda:N"),
    (["table3", *LITE2, "--short-side", "-3"], "--short-side is -3"),
    (["table3", *LITE2, "--short-side", "10"], "at least 64"),
    (["table3", "--camvid", "nowhere"], "--camvid nowhere: there is no such folder"),
    (["table3", *LITE2, "--cityscapes", "nowhere"], "--cityscapes nowhere: there is no such folder"),
    (["table3", *LITE2, "--cityscapes", "{camvid}"], "no Cityscapes in {camvid}"),
    (["table3", *LITE2, "--runs", "nowhere"], "--runs nowhere: there is no such folder"),
    (["table3", *LITE2, "--config", "camvid_lite2"], "--config is of fig10 and kl_kh"),
    (["table3", *LITE2, "--output", "{network}"], "--output needs a folder where {network} is a file"),
    (["table3", *LITE2, "--output", "{network}/out"], "--output needs a folder where {network} is a file"),
    (["table6", "--output", "/proc/nowhere"], "--output /proc/nowhere cannot be"),
    (["fig10"], "--camvid FOLDER"),
    (["fig10", "--camvid", "nowhere"], "--camvid nowhere: there is no such folder"),
    (["fig10", *LITE2, "--classes", "wall", "building"], "--classes wall: camvid has sky"),
    (["fig10", *LITE2, "--classes", "fence", "fence"], "fence twice"),
    (["fig10", *LITE2, "--features", "2"], "at least 3"),
    (["fig10", *LITE2, "--features", "-1"], "at least 3"),
    (["fig10", *LITE2, "--below", "2"], "--below is 2.0"),
    (["fig10", *LITE2, "--below", "nan"], "--below is nan"),
    (["fig10", *LITE2, "--below", "0.01"], "only 0 hard features of fence in 4 frames"),
    (["fig10", *LITE2, "--config", "camvid_lite1"], "--config camvid_lite1: there is no such configuration; near it"),
    (["fig10", *LITE2, "--config", "nowhere/x.yaml"], "--config nowhere/x.yaml: there is no such file"),
    (["fig10", *LITE2, "--config", "ours"], "no whole training"),
    (["fig10", *LITE2, "--config", "{network}"], "--config {network}: there is no such configuration"),
    (["fig10", *LITE2, "--config", "paper/cityscapes_pspnet_resnet50"], "--cityscapes FOLDER"),
    (["kl_kh", "--config", "nowhere"], "there is no such configuration"),
    (["kl_kh", *LITE2, "--classes", "fence", "sky"], "--classes is of fig10"),
    (["kl_kh", *LITE2, "--hard", "0"], "--hard 0: a memory takes at least 1"),
    (["kl_kh", *LITE2, "--confident", "5", "-1"], "--confident -1: a memory takes at least 1"),
    (["kl_kh", "--config", "cityscapes_pspnet_resnet50"], "--cityscapes FOLDER"),
    (["kl_kh", "--camvid", "{camvid}", "--config", "camvid_lite0", "--runs", "new"], "--root {camvid} --run new"),
    (["kl_kh", "--camvid", "{camvid}", "--config", "camvid_lite0"], "--stage stf"),
    (["kl_kh", *LITE2, "--set", "mar.epochs"], "SETTING=VALUE"),
    (["kl_kh", *LITE2, "--set", "foo=1"], "--set foo=1: "),
    (["kl_kh", *LITE2, "--set", "mar.epochs=x"], "--set mar.epochs=x: "),
    (["kl_kh", *LITE2, "--set", "root=x"], "--camvid FOLDER says that here"),
    (["kl_kh", *LITE2, "--set", "memory.confident_per_class=2"], "--confident says that here"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_had_is_one_line(
    arguments: list[str],
    message: str,
    camvid: Path,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "run", lambda _: pytest.fail("measured before it was refused"))
    places = {"camvid": camvid, "network": network}
    words = [word.format(**places) for word in arguments]
    for option, value in (("--output", str(tmp_path / "out")), ("--device", "cpu")):
        words += [] if option in words else [option, value]
    assert main(words) == 1
    # A progress bar may stand before it.
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("reproduce: ") and message.format(**places) in said[-1]
    assert not (tmp_path / "out").exists()


def test_a_file_for_another_table_is_said_to_be_of_no_use(
    run: Callable[..., dict[str, Any]], network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("table6", "--checkpoint", f"camvid_lite2={network}")
    assert "--checkpoint camvid_lite2: table6 has no row of it" in capsys.readouterr().err


def test_ctrl_c_is_one_line_that_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> Document:
        raise KeyboardInterrupt

    monkeypatch.setitem(reproduce.TARGETS, "table6", stop)
    assert main(["table6", "--output", str(tmp_path)]) == 130
    kept = f"what was measured is kept in {tmp_path / 'evaluations'}, the same command goes on"
    assert capsys.readouterr().err == f"reproduce: stopped; {kept}\n"


def test_help_says_where_figures_are_kept() -> None:
    assert "kept in OUTPUT/evaluations" in " ".join(options_parser().format_help().split())


def test_a_document_names_each_reason_once() -> None:
    lines = (Line("a|b", 2.0, 1.0, "why"), Line("c", None, 3.0, "why"), Line("d", 4.0, None, "because"))
    text = Document("t", "Title", "x", lines, ("Remark.",), relative=True).markdown()
    assert "| a\\|b | 2.00 | 1.00 | -50.00 | 1 |" in text
    assert "| d | 4.00 | - | - | 2 |" in text
    assert "1. why\n2. because\n" in text


def test_a_document_has_the_columns_that_it_needs() -> None:
    source = Source("model.safetensors", "0123456789abcdef", "camvid", "val", 4, 64)
    alone = Document("t", "Title", "x", (Line("a", ours=0.1234, source=source),), digits=3)
    assert alone.columns() == [("", "ours", "source"), ("a", "0.123", "a")]
    assert "- a: model.safetensors (sha256 0123456789ab) on 4 frames of camvid val, short side 64" in alone.markdown()
    nothing = Document("t", "Title", "x", (Line("a", 2.0, note="why"),))
    assert nothing.columns() == [("", "paper", "ours", "note"), ("a", "2.00", "-", "1")]
    assert alone.measured and not nothing.measured

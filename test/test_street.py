"""A newcomer's first training: every stage on the synthetic street, with the package's own settings."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stmem_ros.checkpoint import load_checkpoint, load_rows, read_info
from training import synthetic
from training.train import main

SETTINGS = Path(__file__).parents[1] / "training" / "configs" / "street.yaml"


@pytest.mark.usefixtures("training_environment")
def test_all_stages_train_on_the_street_and_stf_gains_over_the_base(tmp_path: Path) -> None:
    street, run = tmp_path / "street", tmp_path / "run"
    assert synthetic.main([str(street)]) == 0
    start = time.monotonic()
    where = ["--dataset", str(street / "street.yaml"), "--root", str(street), "--run", str(run)]
    assert main([str(SETTINGS), *where]) == 0
    print(f"trained in {time.monotonic() - start:.0f} s")

    def miou(stage: str) -> float:
        return float(read_info(run / stage / f"{stage}.safetensors").provenance["validated_on"]["val_miou"])

    assert miou("base") > 60
    assert miou("stf") > miou("base") + 2
    assert miou("mar") > miou("base") + 2
    network, _ = load_checkpoint(run / "model.safetensors")
    assert network.stf is not None and network.mar is not None
    assert set(load_rows(run / "model.safetensors")) == {"base", "stf"}
    # What later stages leave as it is, to the last bit, is kept once.
    size = {name: (run / name).stat().st_size for name in ("base/base.safetensors", "mar/mar.safetensors")}
    grown = (run / "model.safetensors").stat().st_size - size["mar/mar.safetensors"]
    assert grown < 0.1 * size["base/base.safetensors"]

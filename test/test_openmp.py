"""Commands set how PyTorch's threads wait before they import it; what the user has set stays."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stmem_ros.openmp import CHOSEN_BY, WAITING, wait_without_spinning, waiting

ROOT = Path(__file__).resolve().parents[1]
# Each package whose modules are commands.
PACKAGES = ("stmem_ros.node", "stmem_ros.bag", "stmem_ros.benchmark", "training")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has imported neither PyTorch nor launch, and whose user has chosen nothing."""
    monkeypatch.setattr(os, "environ", {name: os.environ[name] for name in os.environ if name not in CHOSEN_BY})
    for module in ("torch", "launch"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_it_is_set_and_told() -> None:
    assert waiting() == {}
    wait_without_spinning()
    assert waiting() == WAITING


@pytest.mark.parametrize("name", CHOSEN_BY)
def test_what_the_user_has_set_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, name, "7")
    wait_without_spinning()
    assert waiting() == {name: "7"}


@pytest.mark.parametrize("module", ["torch", "launch"])
def test_nothing_is_set_too_late_or_for_programs_of_others(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, sys)
    wait_without_spinning()
    assert waiting() == {}


def test_a_command_has_it_before_its_modules_are_imported() -> None:
    program = f"import os, sys, {', '.join(PACKAGES)}; assert 'torch' not in sys.modules; print(os.environ)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    ).stdout
    assert all(f"'{name}': '{value}'" in printed for name, value in WAITING.items())


def test_every_command_is_below_a_package_that_sets_it() -> None:
    commands = re.findall(r'"[a-z_]+ = ([a-z_.]+):main"', (ROOT / "setup.py").read_text())
    assert len(commands) > 10
    assert [name for name in commands if not name.startswith(tuple(f"{package}." for package in PACKAGES))] == []
    for package in PACKAGES:
        source = (ROOT / package.replace(".", "/") / "__init__.py").read_text()
        assert "wait_without_spinning()" in [ast.unparse(line) for line in ast.parse(source).body]

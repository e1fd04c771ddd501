"""How programs begin: Ctrl-C while they import is one line, and the usage names them as they were called."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stmem_ros import program

ROOT = Path(__file__).resolve().parents[1]
# What takes long to import; each program imports one of them.
SLOW = ("torch", "rclpy", "numpy", "cv2")


def programs() -> dict[str, str]:
    """The programs of setup.py and their modules."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Dict) and any(ast.unparse(key) == "'console_scripts'" for key in node.keys if key):
            lines = ast.literal_eval(node.values[0])
            return {name.strip(): target.strip() for name, _, target in (line.partition("=") for line in lines)}
    raise AssertionError("setup.py has no programs")


PROGRAMS = {name: target.partition(":")[0] for name, target in programs().items()}


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder of modules that never finish importing; each says that it began."""
    for name in SLOW:
        (tmp_path / f"{name}.py").write_text(
            f"import pathlib, time\npathlib.Path({str(tmp_path / 'began')!r}).touch()\n"
            # In steps: a signal just before a sleep is seen after it.
            "for _ in range(6000):\n    time.sleep(0.01)\n"
        )
    return tmp_path


def stop_while_importing(command: list[str], slow: Path) -> tuple[int, str]:
    """Ctrl-C once the first of the slow modules is being imported: the status, and what was said."""
    environment = os.environ | {"PYTHONPATH": f"{slow}:{ROOT}"}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=slow,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: what runs in the background of a script ignores Ctrl-C, and its processes do too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 30
        while not (slow / "began").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    return process.returncode, said


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_while_a_program_imports_is_one_line(name: str, slow: Path) -> None:
    module = PROGRAMS[name].removesuffix(".__main__")
    assert stop_while_importing([sys.executable, "-m", module], slow) == (130, f"{name}: stopped\n")


def test_ctrl_c_while_an_installed_program_imports_is_one_line(slow: Path) -> None:
    script = slow / "lib" / "stmem_ros" / "demo"
    script.parent.mkdir(parents=True)
    script.write_text("import sys\nfrom stmem_ros.node.demo import main\nsys.exit(main())\n")
    assert stop_while_importing([sys.executable, str(script)], slow) == (130, "demo: stopped\n")


def test_a_program_of_others_that_imports_the_package_keeps_its_own_ctrl_c(slow: Path) -> None:
    work = "try:\n    import stmem_ros.labels\nexcept KeyboardInterrupt:\n    raise SystemExit('mine')"
    (slow / "theirs.py").write_text(work)
    assert stop_while_importing([sys.executable, "-m", "theirs"], slow) == (1, "mine\n")


def test_once_a_program_has_begun_ctrl_c_is_an_exception_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["/opt/ws/install/stmem_ros/lib/stmem_ros/bag"])
    try:
        program.guard_imports()
        assert signal.getsignal(signal.SIGINT) is program._stop
        program.begin()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


CALLS = {
    "/opt/ws/install/stmem_ros/lib/stmem_ros/bag": "ros2 run stmem_ros bag",
    "/home/me/.local/bin/bag": "bag",
    "/ws/src/stmem_ros/stmem_ros/bag/__main__.py": "python -m stmem_ros.bag",
    "/usr/bin/pytest": "python -m stmem_ros.bag",
}


@pytest.mark.parametrize("script", CALLS)
def test_a_program_is_named_as_it_was_called(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    assert program.called("stmem_ros.bag") == CALLS[script]


def test_every_program_names_itself_as_it_was_called() -> None:
    """But the replay node, which has no options of its own."""
    for name, module in PROGRAMS.items():
        if name != "replay_node":
            files = [ROOT / f"{module.replace('.', '/')}.py", ROOT / "training" / "train_config.py"]
            named = f'prog=called("{module.removesuffix(".__main__")}")'
            assert any(named in file.read_text() for file in files), name

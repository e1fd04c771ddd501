#!/usr/bin/env bash
# Makes .venv in the checkout: the packages of requirements.txt, except PyTorch and ROS 2 where they can be
# imported already. Does nothing where that is done. PYTHON names the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 10):
    sys.exit(f"setup: Python 3.10 or newer is needed; this is {sys.version.split()[0]}. Set PYTHON to a newer one.")
CHECK

# What another virtual environment has, one that is active now, cannot be seen from ours.
importable() { (cd / && "$python" -c "import sys; sys.prefix == sys.base_prefix or sys.exit(1); import $1") 2>/dev/null; }
torch=$(importable torch && echo found || echo missing)
rclpy=$(importable rclpy && echo found || echo missing)
wanted="$(cat requirements*.txt | cksum) $("$python" --version) torch $torch rclpy $rclpy"
[ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && exit 0

skip='^$'
options=()
if [ "$torch" = found ]; then
    skip="$skip|^torch=="
    options=(--system-site-packages)
fi
if [ "$rclpy" = found ]; then
    skip="$skip|^ros-|^cv-bridge=="
    options=(--system-site-packages)
fi
"$python" -m venv --clear "${options[@]+"${options[@]}"}" .venv
grep -Ev "$skip" requirements.txt > .venv/requirements.txt
echo "setup: installing into .venv (a few minutes the first time)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/libraries \
    -r requirements-libraries.txt >&2 || echo "setup: tests against timm and torchvision will be skipped" >&2
echo "$wanted" > .venv/installed

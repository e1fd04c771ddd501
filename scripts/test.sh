#!/usr/bin/env bash
# Every linter and every test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
. .venv/bin/activate
ruff check .
ruff format --check .
mypy
# Two files at a time, each test on one thread: together they take two cores.
export OMP_NUM_THREADS=1
python -m pytest -n 2 --dist loadfile "$@"
# With the libraries that lie aside.
[ $# -gt 0 ] || PYTHONPATH=.venv/libraries python -m pytest test/libraries

#!/usr/bin/env bash
# Every linter and every test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
. .venv/bin/activate
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
# With the libraries that lie aside.
[ $# -gt 0 ] || PYTHONPATH=.venv/libraries python -m pytest test/libraries

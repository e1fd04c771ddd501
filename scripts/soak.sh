#!/usr/bin/env bash
# Half an hour (--seconds) of everything that a graph does to the segmentation node; --help says what is measured.
set -euo pipefail
"$(dirname "$0")/setup.sh"
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root:$root/test${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m soak "$@"

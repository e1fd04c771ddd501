#!/usr/bin/env bash
# Segments a clip with two ROS 2 nodes and leaves demo_output/; --help lists the options.
set -euo pipefail
"$(dirname "$0")/setup.sh"
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m stmem_ros.node.demo "$@"

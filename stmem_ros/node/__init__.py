"""ROS 2 nodes: wiring only; no tensor arithmetic."""

from stmem_ros.openmp import wait_without_spinning

# A package is imported before its modules, and these import PyTorch.
wait_without_spinning()

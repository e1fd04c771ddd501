"""ROS bags, read and written without ROS: `python -m stmem_ros.bag`."""

from stmem_ros.openmp import wait_without_spinning

# A package is imported before its modules, and these import PyTorch.
wait_without_spinning()

"""Video semantic segmentation for ROS 2: temporal fusion (STF) and memory-augmented refinement (MAR)."""

from stmem_ros.program import guard_imports

__version__ = "0.1.0"

guard_imports()

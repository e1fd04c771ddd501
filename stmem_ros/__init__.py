"""Video semantic segmentation for ROS 2: temporal fusion (STF) and memory-augmented refinement (MAR)."""

__version__ = "0.1.0"

"""ROS 2 nodes: wiring only; no tensor arithmetic."""

"""Measuring networks on ROS bags: the figures, their comparison, and the report."""

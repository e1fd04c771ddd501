"""Bags as files: any of them read, damaged ones as far as they are whole, and rosbag2 written whole or not at all."""

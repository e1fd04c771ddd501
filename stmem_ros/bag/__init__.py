"""ROS bags, read and written without ROS: `python -m stmem_ros.bag`."""

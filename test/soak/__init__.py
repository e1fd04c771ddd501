"""A long run of the segmentation node under everything that a graph does to it: `python -m soak --help`."""

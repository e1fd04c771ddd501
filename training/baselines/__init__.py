"""What the paper compares STF and MAR with (tables 1, 2 and 4): other ways to fuse frames or to mend labels."""

from training.baselines.dense_crf import DenseCRF, MissingLibraryError
from training.baselines.flow_average import FlowAverage
from training.baselines.segfix import SegFix

__all__ = ["BASELINES", "DenseCRF", "FlowAverage", "MissingLibraryError", "SegFix"]

BASELINES = {baseline.name: baseline for baseline in (DenseCRF, SegFix, FlowAverage)}

"""The network in plain PyTorch: base networks, STF, MAR and the composed `VideoSegmenter`."""

from stmem_ros.network.bases import BASES, BaseNetwork, build_base
from stmem_ros.network.config import MARConfig, SegmenterConfig, STFConfig
from stmem_ros.network.mar import MAR
from stmem_ros.network.segmenter import Classifier, VideoSegmenter, build_segmenter
from stmem_ros.network.stf import STF

__all__ = [
    "BASES",
    "MAR",
    "STF",
    "BaseNetwork",
    "Classifier",
    "MARConfig",
    "STFConfig",
    "SegmenterConfig",
    "VideoSegmenter",
    "build_base",
    "build_segmenter",
]

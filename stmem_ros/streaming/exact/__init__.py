"""The network as a stream computes it: the plain modules' output exactly, with what repeats taken out.

Each file derives one part from a trained module of `stmem_ros.network`, which stays the one definition, and says by
which equation. Weights that change later need a new derivation.
"""

from stmem_ros.streaming.exact.batch_norm import fold_batch_norms
from stmem_ros.streaming.exact.fusion import FoldedICSA, FoldedSTF
from stmem_ros.streaming.exact.network import FrameFeatures, StreamingNetwork, streaming_network
from stmem_ros.streaming.exact.onednn import FusedConv2d, fuse_convolutions
from stmem_ros.streaming.exact.pyramid import FoldedPSPHead, fold_pyramids
from stmem_ros.streaming.exact.refinement import FoldedMAR

__all__ = [
    "FoldedICSA",
    "FoldedMAR",
    "FoldedPSPHead",
    "FoldedSTF",
    "FrameFeatures",
    "FusedConv2d",
    "StreamingNetwork",
    "fold_batch_norms",
    "fold_pyramids",
    "fuse_convolutions",
    "streaming_network",
]

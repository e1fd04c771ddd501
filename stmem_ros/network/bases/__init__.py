"""Base networks: image segmentation networks without their classifier, by name."""

from stmem_ros.network.bases.base import BackboneWithHead, BaseNetwork
from stmem_ros.network.bases.catalog import BASES, build_base

__all__ = ["BASES", "BackboneWithHead", "BaseNetwork", "build_base"]

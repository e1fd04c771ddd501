"""Mending labels by a fully connected CRF on the image's colours (Krähenbühl and Koltun, NeurIPS 2011)."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.measure.baseline import Refinement


class MissingLibraryError(ImportError):
    """The optional library is not there: one line that says which, and how to get it."""


@dataclasses.dataclass(frozen=True)
class DenseCRF(Refinement):
    """Mean-field inference by the authors' code (package pydensecrf2, optional).

    The network's log-probabilities are the unary term; two Potts terms pull pixels together that are near, and that
    are near and alike in colour. The defaults are those of DeepLab v2 (ResNet-101) for images of about 500 pixels;
    lengths are in pixels of the image as it is.

    Args:
        near: standard deviation in pixels of the first term
        near_weight: its weight
        far: standard deviation in pixels of the second term
        color: standard deviation in colour, 0 to 255, of the second term
        color_weight: its weight
        iterations: mean-field iterations

    Raises MissingLibraryError where the package cannot be imported.
    """

    name: ClassVar[str] = "dense_crf"
    near: float = 1
    near_weight: float = 3
    far: float = 67
    color: float = 3
    color_weight: float = 4
    iterations: int = 10

    def __post_init__(self) -> None:
        _library()

    def refine(self, logits: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """The logarithm of the CRF's probabilities; see `Refinement`."""
        classes, height, width = logits.shape
        crf = _library().DenseCRF2D(width, height, classes)
        energy = -torch.log_softmax(logits.float(), 0).cpu().numpy().reshape(classes, -1)
        crf.setUnaryEnergy(np.ascontiguousarray(energy))
        crf.addPairwiseGaussian(sxy=self.near, compat=self.near_weight)
        # The library takes no read-only image.
        pixels = np.array(image, order="C")
        crf.addPairwiseBilateral(sxy=self.far, srgb=self.color, rgbim=pixels, compat=self.color_weight)
        probabilities = torch.from_numpy(np.array(crf.inference(self.iterations), np.float32))
        tiny = torch.finfo(torch.float32).tiny
        return probabilities.reshape(logits.shape).clamp(min=tiny).log().to(logits.device)


def _library() -> Any:
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise MissingLibraryError(
            f"dense_crf needs the package pydensecrf2 ({error}): pip install pydensecrf2, where there is a C++ compiler"
        ) from error

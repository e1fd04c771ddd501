"""What half precision (float16, bfloat16) is not enough for."""

from __future__ import annotations

import torch


def scores_dtype(dtype: torch.dtype) -> torch.dtype:
    """The number format for scores that a softmax follows, and for lengths: float32 at least.

    float16 ends at 65504 and makes F.normalize's epsilon zero; bfloat16 rounds a score of 300 to a whole number.
    """
    return torch.promote_types(dtype, torch.float32)

"""torchvision's compiled operators are not needed here, and beside some builds of torch they cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _without_operators() -> Iterator[None]:
    register = torch.library.register_fake

    def skipping(op: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", skipping)
        yield

"""The tokens of one document, as evidence shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DocumentTokens:
    """Token columns of one document, all of one length."""

    token_ids: NDArray[np.int32]
    roles: NDArray[np.uint8]
    """TokenRole."""
    mask: NDArray[np.bool_]
    """True where the token takes part in training, scaling and evidence."""

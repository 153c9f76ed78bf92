"""What a test needs of its machine: skipped with a reason, or failed where it is required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def is_required(name: str) -> bool:
    """Whether the environment variable DIFFLENS_REQUIRE names this server or program."""
    return name in os.environ.get("DIFFLENS_REQUIRE", "").replace(" ", "").split(",")


def missing(name: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where `name` is required."""
    if is_required(name):
        pytest.fail(f"{name} is required by DIFFLENS_REQUIRE, but {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")

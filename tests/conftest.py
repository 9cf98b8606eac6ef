"""Tests neither read nor write what `sdedit tune` remembered for the user."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("SDEDIT_CACHE")
    os.environ["SDEDIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SDEDIT_CACHE"]
    else:
        os.environ["SDEDIT_CACHE"] = before

"""Check that bundles and images are refused by an error of one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdedit.errors import BundleError, ImageError
from sdedit.runtime.bundle import read_bundle


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def refusal(action: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ImageError) as caught:
        action(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)

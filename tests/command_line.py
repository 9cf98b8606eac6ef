"""Helpers for tests of the command line."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Arguments -> exit code, stdout, stderr"""

QUICK = ("--steps", "3", "--threads", "1")
"""Options of an edit that takes moments."""


def assert_mistake(result: tuple[int, str, str], message: str) -> None:
    code, stdout, stderr = result
    assert (code, stdout) == (2, "")
    assert stderr.startswith("sdedit: ")
    assert len(stderr.splitlines()) == 1
    assert stderr.endswith("\n")
    assert message in stderr

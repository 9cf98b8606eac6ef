"""Helpers for tests of the command line."""

import sys
from collections.abc import Callable

import click
import pytest

from sdedit.cli import main
from sdedit.console import run_command

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


def run_sdedit(*arguments: object) -> None:
    """Run `sdedit` in this process, for fixtures of modules and sessions; it ends well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sdedit", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise


def end(command: click.Command, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command as a process would; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["test"])
    with pytest.raises(SystemExit) as raised:
        run_command(command, "test")
    return int(raised.value.code or 0)

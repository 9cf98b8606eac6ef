"""The entry points of `sdedit` and `sdedit-bench`."""

from .entry import run_module


def main() -> None:
    """Run `sdedit` as this process."""
    run_module("sdedit.commands")


def bench() -> None:
    """Run `sdedit-bench` as this process."""
    run_module("sdedit.benchmarks.bench")

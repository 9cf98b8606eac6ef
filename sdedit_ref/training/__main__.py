"""`python -m sdedit_ref.training`."""

from sdedit.entry import run_module

if __name__ == "__main__":
    run_module("sdedit_ref.training.command")

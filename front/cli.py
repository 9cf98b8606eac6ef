"""The entry point of `sdedit`. It imports nothing before it can answer a Ctrl-C."""

import sys


def main() -> None:
    """Run the command line of this process."""
    try:
        from .commands import sdedit
        from .console import run_command
    except KeyboardInterrupt:
        sys.exit(130)
    run_command(sdedit, "sdedit")

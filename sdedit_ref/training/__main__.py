"""`python -m sdedit_ref.training`. It imports nothing before it can answer a Ctrl-C."""

import sys

from sdedit.errors import comes_from_interrupt


def main() -> None:
    """Run the training that the command line asks for."""
    try:
        from sdedit.console import run_command

        from .command import command
    except (KeyboardInterrupt, ImportError) as error:
        if comes_from_interrupt(error):
            sys.exit(130)
        raise
    run_command(command, "train")


if __name__ == "__main__":
    main()

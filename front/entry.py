"""How a process of this project begins. Until it can answer a Ctrl-C, it imports nothing that takes time."""

import sys

from .errors import comes_from_interrupt


def run_module(name: str) -> None:
    """Import the module `name` and call its `main`, as this process.

    Ctrl-C ends it with exit code 130 and no traceback: the imports of a command take seconds, and its own handling of
    Ctrl-C begins only after them.
    """
    try:
        import importlib

        importlib.import_module(name).main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if comes_from_interrupt(error):
            sys.exit(130)
        raise

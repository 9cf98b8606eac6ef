"""`python -m sdedit` is `sdedit`."""

from .cli import main

if __name__ == "__main__":
    main()

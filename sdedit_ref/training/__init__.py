"""Training of score networks on pictures: `python -m sdedit_ref.training --help`."""

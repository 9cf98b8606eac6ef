"""One module a command, each with `command`; `sdedit.cli` lists them."""

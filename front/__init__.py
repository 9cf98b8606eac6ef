"""SDEdit as a deployment runtime. The way in is `from sdedit.runtime import Editor`; errors are in `sdedit.errors`."""

__version__ = "0.1.0"

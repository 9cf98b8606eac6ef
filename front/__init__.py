"""SDEdit as a deployment runtime. The way in is `from sdedit import Editor`; errors are in `sdedit.errors`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdedit.runtime import (
        Bundle,
        Edit,
        EditedImage,
        EditOptions,
        Editor,
        Job,
        Preview,
        Progress,
        Source,
        read_bundle,
    )
    from sdedit.runtime.replay import Replay, replay

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Edit",
    "EditOptions",
    "EditedImage",
    "Editor",
    "Job",
    "Preview",
    "Progress",
    "Replay",
    "Source",
    "__version__",
    "read_bundle",
    "replay",
]


def __getattr__(name: str) -> Any:
    """The names of sdedit.runtime, imported at first use: `import sdedit` alone imports nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sdedit import runtime

    return getattr(runtime, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

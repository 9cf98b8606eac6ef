"""The torch-free runtime: bundle -> schedule -> plan -> loop -> image."""

from .bundle import Bundle, read_bundle
from .editor import Edit, EditedImage, Editor, Job, Preview
from .images import Source
from .jobs import Progress
from .replay import Replay, replay
from .settings import EditOptions

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
    "read_bundle",
    "replay",
]

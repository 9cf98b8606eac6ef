"""The torch-free runtime: bundle -> schedule -> plan -> loop -> image."""

from . import images
from .bundle import Bundle, read_bundle
from .editor import Edit, EditedImage, Editor, Job, Preview
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

Source = images.Source
"""A guide or mask: a path (every str is one), an encoded image as bytes or as a binary file object, a PIL image, or an
array.

A file object is read from its current position and not closed. Arrays are uint8 [H, W, 3], [H, W, 4] with alpha, or
[H, W]; a mask may be bool or float in [0, 1] as well.
"""

"""The torch-free runtime: bundle -> schedule -> plan -> loop -> image."""

from .bundle import Bundle, read_bundle
from .editor import Edit, EditedImage, Editor, Job, Preview

__all__ = ["Bundle", "Edit", "EditedImage", "Editor", "Job", "Preview", "read_bundle"]

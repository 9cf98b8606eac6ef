"""The torch-free runtime: bundle -> schedule -> plan -> loop -> image."""

from .bundle import Bundle, read_bundle
from .editor import Edit, EditedImage, Editor

__all__ = ["Bundle", "Edit", "EditedImage", "Editor", "read_bundle"]

"""The torch-free runtime: bundle -> schedule -> plan -> loop -> image."""

from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.editor import Edit, EditedImage, Editor

__all__ = ["Bundle", "Edit", "EditedImage", "Editor", "read_bundle"]

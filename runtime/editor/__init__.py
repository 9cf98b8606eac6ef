"""The door for products: an Editor opens a bundle once and edits; a Job is an edit in flight."""

from .editor import Editor
from .job import Edit, EditedImage, Job, Preview

__all__ = ["Edit", "EditedImage", "Editor", "Job", "Preview"]

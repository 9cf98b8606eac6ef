"""The door for products: an Editor opens a bundle once and edits; a Job is an edit in flight."""

from .arguments import DeviceName, EngineName, PrecisionName
from .editor import Editor
from .job import Edit, EditedImage, Job, Preview
from .session import Session

__all__ = ["DeviceName", "Edit", "EditedImage", "Editor", "EngineName", "Job", "PrecisionName", "Preview", "Session"]

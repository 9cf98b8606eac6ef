"""Checkpoints that others made, and what is asked of them: `load_checkpoint`."""

from .common import Checkpoint
from .loading import load_checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]

"""Loading score networks from the checkpoints of other projects and of our own training."""

from .checkpoint import Checkpoint
from .loading import load_checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]

"""From a checkpoint file to a canonical network: container by its bytes (container.py), family by its keys (families/).

What keys and shapes tell is read from them; what they cannot tell comes from the file's own metadata or from what the
caller says by name (questions.py), and is never guessed. Nothing is ever unpickled beyond tensors and numbers.
"""

from pathlib import Path

from .container import read_contents
from .families import diffusers, load_contents
from .families.common import Checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]


def load_checkpoint(path: str | Path, **said: str | int | None) -> Checkpoint:
    """Load a checkpoint (safetensors, a torch file of tensors alone, or a folder of diffusers) on the CPU.

    said: what the file does not tell, by name, such as prediction="eps", schedule="linear", size=256; which of them are
    needed depends on the family, and what is missing is named in one error. Raises CheckpointError.
    """
    path = Path(path)
    return diffusers.load(path, said) if diffusers.is_folder(path) else load_contents(read_contents(path), said)

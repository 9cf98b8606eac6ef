"""Writing PNGs. A file is either complete or untouched."""

import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from sdedit.errors import ImageError, reason


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise ImageError unless a PNG can be written at `path`, which must be none of `inputs`. Call it first."""
    if path.suffix.lower() != ".png":
        raise ImageError(f"output {path} does not end in .png: only PNG keeps every byte and the recipe")
    try:
        if path.is_dir():
            raise ImageError(f"output {path} is a folder")
        if not path.parent.is_dir():
            raise ImageError(f"output {path}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise ImageError(f"output {path}: the folder {path.parent} is not writable")
        if path.exists() and any(source.exists() and path.samefile(source) for source in inputs):
            raise ImageError(f"output {path} would overwrite an input: name another")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None


def encode_png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """The image as a PNG with these text chunks and its colour profile."""
    from PIL.PngImagePlugin import PngInfo  # a seventh of what importing the runtime would cost

    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info, icc_profile=image.info.get("icc_profile"))
    return file.getvalue()


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write the image with these text chunks (key: text) and its colour profile. Raises ImageError.

    `path` is either complete or untouched: the file is written beside it and renamed.
    """
    check_output(path)
    data = encode_png(image, texts)
    temporary = path.parent / f".sdedit-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)

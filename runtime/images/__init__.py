"""Pictures: decoding files, the part of a photo that is edited, saving, and stroke paintings."""

from .canvas import Canvas, check_placement, difference_mask, masked_canvas, paste, to_image, to_state, whole_canvas
from .decoding import Source, file_sha256, load_result, open_mask, open_picture
from .saving import check_output, encode_png, save_png

__all__ = [
    "Canvas",
    "Source",
    "check_output",
    "check_placement",
    "difference_mask",
    "encode_png",
    "file_sha256",
    "load_result",
    "masked_canvas",
    "open_mask",
    "open_picture",
    "paste",
    "save_png",
    "to_image",
    "to_state",
    "whole_canvas",
]

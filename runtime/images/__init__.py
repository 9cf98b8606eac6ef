"""Pictures: decoding sources, masks, the part of a photo that is edited, saving, and stroke paintings."""

from .canvas import Canvas, canvas_at, masked_canvas, multiples, own_scale_canvas, own_size_canvas, paste, whole_canvas
from .decoding import SUFFIXES, Picture, load_result, open_picture, picture_size
from .encoding import encode_png
from .masks import alpha_mask, difference_mask, edited_pixels, feathered, open_mask, reduce_mask
from .saving import check_output, save_image
from .seams import carry_error
from .sources import Source, file_sha256

__all__ = [
    "SUFFIXES",
    "Canvas",
    "Picture",
    "Source",
    "alpha_mask",
    "canvas_at",
    "carry_error",
    "check_output",
    "difference_mask",
    "edited_pixels",
    "encode_png",
    "feathered",
    "file_sha256",
    "load_result",
    "masked_canvas",
    "multiples",
    "open_mask",
    "open_picture",
    "own_scale_canvas",
    "own_size_canvas",
    "paste",
    "picture_size",
    "reduce_mask",
    "save_image",
    "whole_canvas",
]

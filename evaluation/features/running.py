"""Features of images, by a converted network on ONNX Runtime, in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdedit.errors import EngineError, reason
from sdedit.runtime.codec import to_image
from sdedit.runtime.engines.importing import import_onnxruntime

from .converting import KEY, PUBLISHED, REVISION

INCEPTION_SIDE = 299
DINOV2_SIDE = 224
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
"""Red, green and blue in [0, 1]."""


class Features:
    """A converted network. name: one of PUBLISHED. Raises EngineError for a file that is none, or of another revision.

    threads: of the CPU; None: all.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            about = json.loads(self._session.get_modelmeta().custom_metadata_map.get(KEY, "{}"))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EngineError(f"features {path} cannot be loaded: {reason(error)}") from None
        if about.get("revision") != REVISION or about.get("name") not in PUBLISHED:
            raise EngineError(
                f"features {path} are of revision {about.get('revision')}, this version takes {REVISION}: "
                "convert the weights with python -m sdedit.evaluation.features"
            )
        self.name: str = about["name"]

    def vectors(self, images: np.ndarray) -> np.ndarray:
        """Features [N, D] of images float32 [N, 3, H, W] in [-1, 1], by a network of INPUTS, one image at a time."""
        return np.concatenate([self._run({"a": INPUTS[self.name](x[None])}) for x in images])

    def lpips(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances [N] of images float32 [N, 3, H, W] in [-1, 1] to their partners."""
        return np.concatenate([self._run({"a": x[None], "b": y[None]}) for x, y in zip(a, b, strict=True)])

    def _run(self, inputs: dict[str, Any]) -> np.ndarray:
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in inputs.items()}
        try:
            out: np.ndarray = self._session.run(None, arrays)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EngineError(f"onnxruntime failed on features: {reason(error)}") from None
        return out


def inception_input(images: np.ndarray) -> np.ndarray:
    """Images float32 [N, 3, H, W] in [-1, 1] as the network takes them: [N, 3, 299, 299], (u - 128) / 128."""
    return (resized(255 * (images + 1) / 2, INCEPTION_SIDE) - 128) / 128


def dinov2_input(images: np.ndarray) -> np.ndarray:
    """Images float32 [N, 3, H, W] in [-1, 1] as the network takes them: [N, 3, 224, 224], normalised.

    They are resized as 8-bit pictures by Pillow's bicubic filter, whatever their aspect: Stein et al. 2023's code.
    """
    side = (DINOV2_SIDE, DINOV2_SIDE)
    pictures = [to_image(x).resize(side, Image.Resampling.BICUBIC) for x in images]
    values = np.stack([np.asarray(picture, np.float32) for picture in pictures]) / 255
    return ((values - IMAGENET_MEAN) / IMAGENET_DEVIATION).transpose(0, 3, 1, 2)


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """Images [N, C, H, W] at side x side, as TensorFlow 1 resizes: bilinear, pixel i at i H / side, no filter."""
    for axis in (2, 3):
        size = images.shape[axis]
        positions = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = np.floor(positions).astype(int)
        shape = [1] * 4
        shape[axis] = side
        share = (positions - low).reshape(shape)
        first, second = (np.take(images, np.minimum(index, size - 1), axis) for index in (low, low + 1))
        images = first + (second - first) * share
    return images.astype(np.float32)


INPUTS = {"inception": inception_input, "dinov2": dinov2_input}
"""Networks with features of single images -> the function that makes their input."""

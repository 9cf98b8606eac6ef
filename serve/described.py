"""Descriptions of models for those who paint: a server gives them, and the files of a page without one."""

from dataclasses import asdict
from typing import Any

from sdedit.runtime import Bundle
from sdedit.runtime.bundle import ImageSpec
from sdedit.runtime.bundle.palette import read_palette
from sdedit.runtime.plan import SAMPLERS
from sdedit.runtime.settings import OPTIONS, Settings


def describe(name: str, bundle: Bundle) -> dict[str, Any]:
    """A model as /v1/models has it: the keys of OpenAI's list, and `sdedit` for those who paint."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "local", "sdedit": describe_bundle(bundle)}


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """The part of `describe` for those who paint."""
    return {
        "sha256": bundle.sha256,
        "licence": bundle.manifest.licence,
        **describe_image(bundle.image),
        "classes": bundle.classes,
        "null_label": bundle.null_label,
        "guidance": bundle.guided,
        "levels": len(bundle.schedule),
        "text": bundle.manifest.text is not None,
        "palette": [asdict(material) for material in read_palette(bundle)] or None,
        "defaults": {name: getattr(Settings, name) for name in OPTIONS},
    }


def describe_image(image: ImageSpec) -> dict[str, Any]:
    """The sizes that a network takes."""
    return {
        "channels": image.channels,
        "native": {"height": image.height, "width": image.width},
        "max_pixels": image.max_pixels,
        "multiple_of": image.multiple_of,
        "free": image.free,
    }


def samplers() -> dict[str, dict[str, Any]]:
    """The presets of the one formula, by name, as JSON has them."""
    return {name: asdict(sampler) for name, sampler in SAMPLERS.items()}

"""Devices hold the state of B slots, and run begin and steps on it (loop.Device). A device is imported when opened."""

from .opening import DEVICES, check_recipe, open_device

__all__ = ["DEVICES", "check_recipe", "open_device"]

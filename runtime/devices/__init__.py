"""Devices hold the state of B slots and run begin and steps on it (loop.Device). This room imports them lazily."""

from .opening import DEVICES, open_device

__all__ = ["DEVICES", "open_device"]

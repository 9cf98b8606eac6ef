"""Doors for the clients of other services: they speak to this server without a change."""

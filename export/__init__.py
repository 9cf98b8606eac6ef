"""Checkpoint -> verified bundle. Needs the extra `export`; nothing here is imported by the runtime."""

"""Turn checkpoints into verified bundles. It needs the extra `export`; the runtime imports nothing of it."""

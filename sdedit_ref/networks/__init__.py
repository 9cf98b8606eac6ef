"""Score networks, each with the parameter names of the checkpoints it loads."""

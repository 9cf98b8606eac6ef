"""The part box/ of a bundle: graphs that recompute only a box of every layer."""

"""How the server does under load and under faults: `python -m sdedit.benchmarks.serve`."""

"""SDEdit as the paper has it, in torch, to be read: score networks, their checkpoints and their noise schedules."""

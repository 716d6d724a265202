"""Training: the `TrainState`, one step, the loop, the optimiser, and checkpoints."""

"""What is trained: the `Experiment`, its schedules, and the presets of the paper's tables."""

"""The settings of a run: the `Experiment`, schedules, the rules of estimators, and presets of the paper's tables."""

"""Which run comes next; no other package imports Optuna."""

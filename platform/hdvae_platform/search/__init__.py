"""Optuna, and which run comes next: no other package imports Optuna."""

"""Evaluation: metrics and their names, use of the memories, samples."""

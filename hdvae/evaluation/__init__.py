"""Evaluation: metrics and their names, bounds of single images, usage of the memories, and samples."""

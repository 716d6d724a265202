"""Measurements that are too long, or too machine-dependent, for a test; each ends with one JSON line."""

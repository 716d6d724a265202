"""One run, in one process or several: from its specification to its last report."""

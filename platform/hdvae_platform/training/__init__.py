"""Training one run, in one process or several: what it is given, what it keeps and what it tells its driver."""

"""Ray as a place to run: connecting, looking at the machines, jobs."""

"""What is kept, and where: places, storage, journals, checkpoints, records of runs, data sets."""

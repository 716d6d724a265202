"""What is kept and where: addresses, storage, journals, checkpoints, the study database, handles, data sets."""

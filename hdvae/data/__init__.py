"""Data sets of binary images: read from Parquet or `.npz`, checked and binarised."""

"""Data sets of binary images: in memory, as Parquet files, and from your own `.npz` files."""

"""MLflow, the record that people read. No other package imports MLflow or spells its tags and parameters."""

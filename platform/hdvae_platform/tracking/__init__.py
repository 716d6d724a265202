"""MLflow: no other package imports it or knows its tags and parameters."""

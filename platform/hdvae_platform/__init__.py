"""The study platform: launches, resumes, tracks and compares HD-VAE studies on Ray, Optuna and MLflow."""

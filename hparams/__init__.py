"""Hyperparameter files, carried inside the wheel."""

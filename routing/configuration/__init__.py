"""Providers, models, policies and budgets: as a file, as rows, and as the snapshot that all processes plan by."""

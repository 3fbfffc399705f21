"""Does the work that may wait: by providers' batches, else by plain calls."""

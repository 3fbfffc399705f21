"""Work that may wait, as rows. The batches do it."""

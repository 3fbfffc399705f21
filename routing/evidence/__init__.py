"""What would be otherwise under another policy: explained, replayed, compared beside real traffic."""

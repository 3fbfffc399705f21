"""Who may call, and how often: places, keys, limits, open streams, guesses."""

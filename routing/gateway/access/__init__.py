"""Who may call, and how often: keys, limits, open streams, guesses."""

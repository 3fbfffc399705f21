"""What may be spent and what was: the ledger, its connections, and envelopes that many calls draw from."""

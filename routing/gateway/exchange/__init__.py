"""One HTTP exchange with a client, whoever serves it."""

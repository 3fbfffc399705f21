"""What is written down of a call, and read back: receipts, kept answers and requests, stored bodies, reviews."""

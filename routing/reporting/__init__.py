"""What was used, paid and saved, and the proof of it: summaries, receipts' pages, prices, providers' statements."""

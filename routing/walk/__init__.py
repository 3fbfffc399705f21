"""Getting an answer by a plan: candidates one after another, patterns, and whether an answer will do."""

"""The users' older JSON of rules, read into a draft policy."""

"""Answers that equal requests may share."""

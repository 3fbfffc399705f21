"""Anthropic's API: the codec, and the package that carries it."""

"""The offline model's rooms: reading a conversation, ranking, extracting, filling a JSON schema.

All of it is pure and deterministic: no network, no weights, no clock, no randomness. The door is
`routing.adapters.offline`.
"""

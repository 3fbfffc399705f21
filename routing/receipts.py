"""The receipt and usage records of a routed call, and its way back from them. Mostly PURE."""

COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
MAX_ERROR_CHARACTERS = 500

"""OpenAI's chat completions and embeddings, which many others speak, each with an accent."""

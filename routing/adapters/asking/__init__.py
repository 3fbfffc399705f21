"""What codecs share that write requests: instructions in words, forced calls, documents, embeddings."""

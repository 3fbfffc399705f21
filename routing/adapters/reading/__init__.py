"""What providers send, before it means anything: JSON that may be of any shape, events, pieces of arguments, waits."""

"""From pieces to a whole answer: what codecs share that read answers."""

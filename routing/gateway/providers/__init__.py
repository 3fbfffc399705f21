"""HTTP to providers: connections that are kept, and exchanges over them."""

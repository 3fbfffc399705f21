"""The gateway's own HTTP server, and what stands before it where daphne serves it beside the pages."""

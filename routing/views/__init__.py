"""Pages of routing for staff, by concern: parse, call one function, render."""

"""How things are just now, for all processes: circuits, slots, daily counts."""

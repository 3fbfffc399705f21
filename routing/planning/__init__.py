"""Which model serves a request, and for how much at most. Pure: no room here reads or writes anything."""

"""What surrounds a request on its way: its time, its certificates, whether it went out, how it failed."""

"""The APIs that clients speak, read and written. Pure, one room for each direction of each."""

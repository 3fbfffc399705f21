"""The admin: where staff retune routing. The site finds what is registered here."""

from routing.admin import keys, pages, records  # noqa: F401 - importing them registers them

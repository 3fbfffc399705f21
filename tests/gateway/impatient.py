"""The web server's application with little patience, for tests that would wait too long otherwise."""

from ziggie.asgi import application  # noqa: F401, I001 - first: it fills the app registry

from routing.gateway.serving import mounted

mounted.HEAD_SECONDS = 1.0
mounted.REQUEST_SECONDS = 1.0
mounted.limits.SEND_SECONDS = 3.0

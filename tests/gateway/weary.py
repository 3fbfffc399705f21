"""The web server's application, which soon has enough of a stream whose client does not read."""

from ziggie.asgi import application  # noqa: F401, I001 - first: it fills the app registry

from routing.gateway.serving import mounted

mounted.limits.KEPT_WAITING_SECONDS = 2.0

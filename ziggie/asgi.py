"""What the web server runs: pages and REST through Django, /ws/live/ through channels."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.settings")
http = get_asgi_application()  # fills the app registry, which the import below needs

from routing.gateway.app import application as gateway  # noqa: E402 - see above
from ziggie.consumers import live_socket  # noqa: E402 - see above

# The gateway is an application of its own: its path through Django would cost more than its work.
application = ProtocolTypeRouter(
    {"http": URLRouter([re_path(r"^v1/", gateway), re_path("", http)]), "websocket": live_socket}
)

"""What the web server runs: pages and REST through Django, /ws/live/ through channels."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.settings")
http = get_asgi_application()  # fills the app registry, which the import below needs

from ziggie.consumers import live_socket  # noqa: E402 - see above

application = ProtocolTypeRouter({"http": http, "websocket": live_socket})

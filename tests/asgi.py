"""The suite's project, for servers that speak ASGI."""

from django.core.asgi import get_asgi_application

application = get_asgi_application()

"""Pages that say what a process makes of its database, and who answers."""

import os
import threading
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, JsonResponse

from django_pgsnap.signals import post_restore
from tests.testapp.models import Author

# The aliases of all restores that this process was told of.
told: list[str] = []


@receiver(post_restore)
def note(using: str, **_: Any) -> None:
    """Remember a restore."""
    told.append(using)


def state(request: HttpRequest) -> JsonResponse:
    """Say what is cached, before any query, and what is in the tables."""
    using = request.GET.get("using", "default")
    cached = ContentType.objects.db_manager(using).get_for_model(Author)
    site = Site.objects.get_current()
    in_table = ContentType.objects.using(using).get(app_label="testapp", model="author")
    return JsonResponse(
        {
            "cached": [cached.pk, site.name],
            "in_table": [in_table.pk, Site.objects.using(using).get().name],
            "authors": Author.objects.using(using).count(),
            "told": told,
            "pid": os.getpid(),
            "thread": threading.get_native_id(),
        }
    )


async def async_state(request: HttpRequest) -> HttpResponse:
    """Say the same from the event loop."""
    return await sync_to_async(state)(request)


@transaction.non_atomic_requests
def no_query(request: HttpRequest) -> HttpResponse:
    """Say nothing, and ask no database."""
    return HttpResponse()

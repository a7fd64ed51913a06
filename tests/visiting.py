"""Who visits the admin in tests, and what they find there."""

import re
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connections
from django.test import Client
from django.urls import reverse

from django_pgsnap.snapshots.queries import overview
from django_pgsnap.snapshots.types import Snapshot

PASSWORD = "correct horse"
ALL = ("view", "take", "restore", "delete")


def account(
    name: str = "ada",
    *,
    permissions: Iterable[str] = (),
    is_superuser: bool = False,
    is_staff: bool = True,
) -> User:
    """Make a member of staff with these of our permissions."""
    user = User.objects.create_user(
        name, password=PASSWORD, is_staff=is_staff, is_superuser=is_superuser
    )
    codenames = [f"{permission}_snapshot" for permission in permissions]
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="django_pgsnap", codename__in=codenames)
    )
    return user


def visit(user: User, **options: Any) -> Client:
    """Return a browser in which a user has logged in."""
    client = Client(**options)
    client.force_login(user)
    connections.close_all()
    return client


def superuser() -> Client:
    """Return a browser in which a new superuser has logged in."""
    return visit(account("root", is_superuser=True))


def page(name: str, *arguments: str) -> str:
    """Return the address of one of our pages."""
    return reverse(f"admin:django_pgsnap_snapshot_{name}", args=arguments)


def of(name: str, snapshot: Snapshot) -> str:
    """Return the address of one of a snapshot's pages."""
    return page(name, snapshot.set_id)


# What a test client returns has more to it than its declared types say.
Answer = Any


def confirm(client: Client, address: str, **values: Any) -> Answer:
    """Press the button of a page that asks."""
    return client.post(address, {"post": "yes", **values})


def undo(client: Client) -> Answer:
    """Press the button of the page about the newest replaced state."""
    return confirm(client, undo_page())


def undo_page(number: int = 1) -> str:
    """Return the address of the page about a replaced state, counted from the newest."""
    return page("undo", overview().undos[number - 1].set_id)


def told(response: Answer) -> list[str]:
    """Return the messages that an answer adds to those that wait for the next page."""
    waiting: Any = get_messages(response.wsgi_request)
    return [str(message) for message in waiting._queued_messages]


def text(response: Answer) -> str:
    """Return what an answer says, without tags and needless space."""
    without_tags = re.sub(r"<[^>]+>", " ", response.content.decode())
    return " ".join(without_tags.split())

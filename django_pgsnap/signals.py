"""Signals around take and restore.

``pre_take`` and ``pre_restore`` are sent once per operation, before anything is locked, with
``aliases`` (a tuple of database aliases) and ``name`` (the snapshot's name, None where it is yet to
be chosen). A receiver that raises stops the operation.

``post_take`` is sent once, with ``snapshot``.

``post_restore`` is sent for every alias whose database was replaced, with ``using`` (the alias),
after Django's own caches were cleared: in the process that restored it, and in every other process
where the app is switched on, as soon as that process meets the new database. Clear here what you
cached from the old one.
"""

from __future__ import annotations

from django.dispatch import Signal

pre_take = Signal()
post_take = Signal()
pre_restore = Signal()
post_restore = Signal()

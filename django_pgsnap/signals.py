"""Signals around take and restore.

``pre_take`` and ``pre_restore`` are sent once per operation, before anything is locked, with
``aliases`` (a tuple of database aliases) and ``name`` (the snapshot's name, None where it is yet to
be chosen). A receiver that raises stops the operation.

``post_take`` is sent once, with ``snapshot``.

``post_restore`` is sent for every alias whose database was replaced, with ``using`` (the alias) and
``snapshot`` (what was restored; None after an undo, or where another process did it), once in each
process: in the one that restored, when the operation is over; in every other one where the app is
switched on, at its next request or new connection. By then Django's own caches are clear. Clear
here what you cached from the old database. It comes in whichever thread noticed first, while others
may be at work.
"""

from django.dispatch import Signal

pre_take = Signal()
post_take = Signal()
pre_restore = Signal()
post_restore = Signal()

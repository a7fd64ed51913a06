"""The admin page: snapshots for people who do not live in the terminal.

`SnapshotAdmin` is registered with the default admin site. To have it on a site of your own::

    my_site.register(Snapshot, SnapshotAdmin)
"""

from ..conf import psycopg_problem

if not psycopg_problem():  # else the system checks say so, which must be able to run
    from django.contrib import admin

    from ..models import Snapshot
    from .snapshot_admin import SnapshotAdmin

    __all__ = ["SnapshotAdmin"]

    admin.site.register(Snapshot, SnapshotAdmin)

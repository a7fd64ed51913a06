"""The model without a table, for content types and permissions. Nothing is made in a database."""

from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    initial = True

    dependencies: ClassVar[list[tuple[str, str]]] = []

    operations: ClassVar[list[Operation]] = [
        migrations.CreateModel(
            name="Snapshot",
            fields=[
                (
                    "set_id",
                    models.CharField(
                        max_length=16, primary_key=True, serialize=False, verbose_name="identity"
                    ),
                ),
                ("name", models.CharField(max_length=100, verbose_name="name")),
            ],
            options={
                "verbose_name": "snapshot",
                "verbose_name_plural": "snapshots",
                "permissions": (
                    ("take_snapshot", "Can take, rename, annotate and pin snapshots"),
                    (
                        "restore_snapshot",
                        "Can restore snapshots and undo that, old rights of users included",
                    ),
                ),
                "managed": False,
                "default_permissions": ("view", "delete"),
                "base_manager_name": "objects",
            },
        ),
    ]

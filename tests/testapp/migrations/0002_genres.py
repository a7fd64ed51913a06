from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

NAMES = ["Essay", "Novel", "Poetry"]


def insert_genres(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    genres = apps.get_model("testapp", "Genre").objects.using(schema_editor.connection.alias)
    genres.bulk_create([genres.model(name=name) for name in NAMES])


class Migration(migrations.Migration):
    dependencies = [("testapp", "0001_initial")]

    operations = [migrations.RunPython(insert_genres, migrations.RunPython.noop)]

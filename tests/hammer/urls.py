"""The page that writes."""

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from tests.hammer import table


@csrf_exempt
def write(request: HttpRequest, client: int, token: int) -> JsonResponse:
    """Write a row, and say which database took it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(table.OID)
        (oid,) = cursor.fetchone()
        table.write(cursor, client, token)
    return JsonResponse({"oid": oid})


urlpatterns = [path("write/<int:client>/<int:token>", write)]

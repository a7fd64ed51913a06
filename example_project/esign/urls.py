"""The state of the data, the admin to change it, and the signed contracts."""

from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import path

from contracts.views import home

urlpatterns = [
    path("", home, name="home"),
    path("admin/", admin.site.urls),
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),
]

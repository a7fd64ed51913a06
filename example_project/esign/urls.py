"""Two pages: the state of the data, and the admin to change it."""

from django.contrib import admin
from django.urls import path

from contracts.views import home

urlpatterns = [
    path("", home, name="home"),
    path("admin/", admin.site.urls),
]

"""The pages of the suite's project."""

from django.contrib import admin
from django.urls import path

from tests.testapp import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("state/", views.state),
    path("async-state/", views.async_state),
    path("no-query/", views.no_query),
]

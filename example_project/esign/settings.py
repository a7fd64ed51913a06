"""Settings of a development site: the server of DATABASE_URL, or else the embedded one."""

import os
import sys
from pathlib import Path
from typing import Any

import dj_database_url

from embedded.lifecycle import ensure_running
from embedded.server import EmbeddedServer

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = True
SECRET_KEY = "for-development-only"  # noqa: S105
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

EMBEDDED_SERVER: EmbeddedServer | None
DATABASES: dict[str, Any]
# Where the demo finds pg_dump; None to search PATH.
CLIENT_PATH: str | None

if "DATABASE_URL" in os.environ:
    EMBEDDED_SERVER = None
    DATABASES = {"default": dj_database_url.config()}
    CLIENT_PATH = None
else:
    EMBEDDED_SERVER = EmbeddedServer(home=BASE_DIR / ".postgres", database="esign")
    # The command that stops the server must not start it first.
    if "embedded_server" not in sys.argv:
        ensure_running(EMBEDDED_SERVER)
    DATABASES = {"default": EMBEDDED_SERVER.django_settings()}
    CLIENT_PATH = EMBEDDED_SERVER.client_path()

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_pgsnap",
    "contracts.apps.ContractsConfig",
    "embedded",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ROOT_URLCONF = "esign.urls"
WSGI_APPLICATION = "esign.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
MEDIA_ROOT = Path(os.environ.get("MEDIA_ROOT", BASE_DIR / "media"))
# Where `contracts.media` keeps what snapshots and undos may need again.
KEPT_MEDIA_ROOT = MEDIA_ROOT.with_name(f"{MEDIA_ROOT.name}-kept")
MEDIA_URL = "media/"
USE_THOUSAND_SEPARATOR = True
STATIC_URL = "static/"

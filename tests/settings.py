"""The settings of the suite's project.

The server starts only when a test asks for it: the `server` fixture then writes its address into
`DATABASES`. A child process is handed the finished values in its environment.
"""

import json
import os

HANDED_ON_IN = "PGSNAP_TEST_SETTINGS"

SECRET_KEY = "not a secret"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.urls"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
SITE_ID = 1

DATABASES = {
    alias: {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "this test lacks the fixture live",
        "HOST": "127.0.0.1",
        "PORT": "",
        "USER": "",
        "PASSWORD": "",
    }
    for alias in ("default", "other")
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.sites",
    "django.contrib.staticfiles",
    "django_pgsnap",
    "tests.testapp",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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

# The suite does not measure how well passwords are kept.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

PGSNAP = {"ENABLED": True}

globals().update(json.loads(os.environ.get(HANDED_ON_IN, "{}")))

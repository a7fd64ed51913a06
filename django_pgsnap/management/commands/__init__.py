"""Django's management commands of this app."""

from ...conf import PSYCOPG_HINT, psycopg_problem

# Django shows a traceback for any other error that comes while it loads a command.
if problem := psycopg_problem():
    raise SystemExit(f"{problem}\n{PSYCOPG_HINT}")

"""Talking to a PostgreSQL server; nothing here knows of snapshots."""

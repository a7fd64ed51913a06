"""A PostgreSQL server that comes from PyPI, so that the example needs no set-up."""

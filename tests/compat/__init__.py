"""Suites of other projects, run with stock Django's runner and with ours: they must end alike.

    python -m tests.compat

Their source distributions are fetched by pip. What differs, and why, is in DIFFERENCES.md.
"""

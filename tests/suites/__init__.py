"""Suites of small projects, which the tests of the runner run in processes of their own."""

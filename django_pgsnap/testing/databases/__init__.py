"""Test databases: made from templates, and known again."""

"""Test databases: cloned from a kept template instead of migrated, and never anybody else's."""

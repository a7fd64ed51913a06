"""Sequences of commands: whatever the history, nothing that is promised is lost."""

"""What changed between two states of the live databases, by model and row."""

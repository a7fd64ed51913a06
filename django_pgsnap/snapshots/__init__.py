"""The use cases: take, restore, undo, look at snapshots, and keep house."""

"""The databases that are ours: how they are named, recorded, made, swapped and dropped."""

"""A small app, on every alias, whose rows tests destroy and get back."""

"""Django's own connections to live databases, and what they remember."""

"""How test databases get back to their baseline between tests."""

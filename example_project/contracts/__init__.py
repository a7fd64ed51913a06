"""Who signed what, and when: a small e-signature product."""

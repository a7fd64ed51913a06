"""Small faults put into the package on purpose, each of which a test has to find."""

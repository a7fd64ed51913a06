"""The site: settings and the ways in."""

"""Take, restore and undo while many clients write, with every row accounted for."""

# The environment variable that has a site use psycopg's pool; others keep their connections.
POOL_WANTED_IN = "PGSNAP_HAMMER_POOL"

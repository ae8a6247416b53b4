"""A store as an earlier version of the collection wrote it, and the script that made it."""

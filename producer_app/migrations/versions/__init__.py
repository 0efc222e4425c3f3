"""The revisions of the application's tables, oldest first by their number."""

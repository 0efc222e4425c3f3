"""The revisions of the outbox, oldest first by their number."""

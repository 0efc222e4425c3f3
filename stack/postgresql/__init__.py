"""The PostgreSQL server of the stack: the application's database, and the source of changes."""

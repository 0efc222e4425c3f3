"""The Maven coordinates of the Debezium plugins."""

"""The Kafka Connect workers of the stack, with Debezium as their plugin."""

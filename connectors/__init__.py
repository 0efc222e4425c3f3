"""The contract between application, Debezium and consumer: outbox table, events, payloads, topics, connectors."""

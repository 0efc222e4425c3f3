"""The Kafka broker of the stack, one node that is its own controller."""

"""Properties of Kafka Connect workers, for every way of starting them."""

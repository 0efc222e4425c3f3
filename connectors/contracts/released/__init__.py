"""The Avro schemas as of the last release: newer ones must read what these wrote."""

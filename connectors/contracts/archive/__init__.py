"""Avro schemas of archived records, by version; a reader of a newer one reads the older ones too."""

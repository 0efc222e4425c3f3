"""Avro schemas of the payloads, generated from the models and committed; `python -m connectors.contracts` does it."""

from connectors.contracts.avro import avro_schema, avro_text, regenerate, schema_name

__all__ = ["avro_schema", "avro_text", "regenerate", "schema_name"]

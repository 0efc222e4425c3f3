"""Writes the Avro schemas anew: `python -m connectors.contracts`."""

from pathlib import Path

from connectors.contracts.avro import regenerate

if __name__ == "__main__":
    regenerate(Path(__file__).parent)

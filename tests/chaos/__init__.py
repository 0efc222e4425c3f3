"""Faults injected into a running chain under load, and what must hold of it afterwards."""

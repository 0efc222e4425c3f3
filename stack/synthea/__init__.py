"""The Synthea patient simulator, which makes input for the sample application."""

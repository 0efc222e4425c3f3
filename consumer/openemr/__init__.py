"""The adapter that knows OpenEMR: its tables, its rules, and our ledger beside it."""

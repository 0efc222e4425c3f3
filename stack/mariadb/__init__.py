"""The MariaDB server of the stack: OpenEMR's database."""

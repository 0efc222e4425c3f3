"""`python -m operations` is `emrsync`."""

from operations.cli import main

main()

"""`python -m stack`: the commands of the stack on their own."""

from stack.cli import app

app()

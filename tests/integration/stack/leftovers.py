"""What is left running of a home."""

from __future__ import annotations

from stack import Stack, processes
from stack.state import load_state


def processes_of(stack: Stack) -> tuple[int, ...]:
    """Return everything that still runs for a home: its programs and its supervisord."""
    state = load_state(stack.layout.state_file)
    programs = () if state is None else processes.marked_processes(state.home_id)
    supervisor = processes.find_supervisor(stack.layout.supervisor_conf)
    return programs if supervisor is None else (*programs, supervisor)

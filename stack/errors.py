"""What can go wrong while servers are started on this machine, by category."""


class StackError(Exception):
    """Base of all errors of the stack; the message says what to do."""


class PackagesMissingError(StackError):
    """Debian packages are absent and may not be installed by this user."""


class CommandFailedError(StackError):
    """A preparing program (initdb, Maven, apt) ended with a non-zero code; the message ends with its last lines."""


class HomeBusyError(StackError):
    """Another command works on the same home and did not finish in time."""


class HomeNotUpError(StackError):
    """The command needs a home that has been brought up."""


class UnknownProgramError(StackError):
    """No program of this name is registered in the home."""


class ServiceNotReadyError(StackError):
    """A service did not answer within its limit; the message ends with the last lines of its log."""

    def __init__(self, name: str, reason: str, log_tail: str) -> None:
        super().__init__(f"{name} is not ready: {reason}\nlast lines of its log:\n{log_tail or '(the log is empty)'}")
        self.name = name
        self.reason = reason
        self.log_tail = log_tail

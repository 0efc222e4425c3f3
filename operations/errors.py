"""What operator commands can end with; each message is one line that says what to do."""


class OperationError(Exception):
    """Base of the errors of this package."""


class ProvisionError(OperationError):
    """A step of provisioning failed; the steps before it stay done, and it can be run again."""


class KafkaUnreachableError(OperationError):
    """No broker answers."""


class KafkaRefusedError(OperationError):
    """A broker answers, and refuses."""


class DeadLetterError(OperationError):
    """A dead letter is not there, or nothing more can be decided about it."""


class UnsettledError(OperationError):
    """A conflict cannot be settled as asked for; nothing was changed."""


class ConnectorGuardError(OperationError):
    """What was asked of the connector would lose or leave something; the message says what, and how to go on."""


class ReplayError(OperationError):
    """A replay cannot be planned or carried out as asked."""


class StoppedError(ReplayError):
    """A signal came in the middle of reading; what was read last is not used."""


class PlanChangedError(ReplayError):
    """What a plan says is so no more; the message says what has changed."""


class ArchiveError(OperationError):
    """An archive cannot be read or written, or is not what was written."""


class ResumeError(OperationError):
    """A restored OpenEMR cannot be caught up as asked; nothing was changed."""


class ResumeStoppedError(ResumeError):
    """Somebody has stopped a resume; the message says how far it came, and how it goes on."""


class SweepError(OperationError):
    """A sweep cannot be carried out as asked; nothing was changed."""


class PurgeError(OperationError):
    """A purge cannot be carried out as asked; nothing was removed."""


class ResyncError(OperationError):
    """A resync cannot be begun or go on as asked; the message says what to do."""

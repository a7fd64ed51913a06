"""What can go wrong: one exception class per cause, each with its remedy.

Every message names the object and the cause. The ``hint`` says what the user can do about it.
An operation that raises one of these has left the server as it found it, unless the message says
otherwise.
"""

from . import messages


class PgsnapError(Exception):
    """Base of all errors that this package raises on purpose.

    Attributes:
        message: The object and the cause, a sentence or two.
        hint: The remedy, or an empty string.
    """

    def __init__(self, message: str, *, hint: str = "", **values: object) -> None:
        """Say what is wrong; where there are values, they fill the braces of both texts."""
        self.message, self.hint = (
            text if isinstance(text, messages.Message) else messages.message(text, **values)
            for text in (message, hint)
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class NotEnabledError(PgsnapError):
    """Snapshots are switched off here, as they are in production."""


class ConfigurationError(PgsnapError):
    """A setting or an argument names something that cannot be used."""


class InvalidNameError(PgsnapError):
    """A snapshot cannot be called that."""


class SnapshotNotFoundError(PgsnapError):
    """There is no snapshot of that name."""


class SnapshotExistsError(PgsnapError):
    """A snapshot of that name exists already."""


class SnapshotPinnedError(PgsnapError):
    """A snapshot that is pinned shall be deleted."""


class NothingToUndoError(PgsnapError):
    """No restore left an undo behind."""


class ServerUnavailableError(PgsnapError):
    """The server cannot be reached, or does not let us in."""


class DatabaseMissingError(PgsnapError):
    """The live database does not exist."""


class MissingRightError(PgsnapError):
    """The role lacks a right that the operation needs."""


class DatabaseBusyError(PgsnapError):
    """Sessions that may not be ended are using the live database."""


class OperationRunningError(PgsnapError):
    """Another snapshot operation holds the lock."""


class ServerError(PgsnapError):
    """The server refused something that it was not expected to."""


class InsideTransactionError(PgsnapError):
    """The calling thread is inside ``transaction.atomic``."""


class ObstacleError(PgsnapError):
    """Something is attached to the live database that cannot follow a swap."""


class CopyFailedError(PgsnapError):
    """The server could not copy a database."""


class ChangedMeanwhileError(PgsnapError):
    """Somebody renamed or replaced a database while the operation ran."""

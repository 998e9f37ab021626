"""Exceptions and the warning. Each message says what failed, with which value, and what to do."""


class Error(Exception):
    """Base of forebay's exceptions."""


class OptionsError(Error, ValueError):
    """An argument is invalid."""


class RefusedError(Error):
    """A server refused the request, and a retry would not change that."""


class NoServerError(Error):
    """Each of several servers gave an answer that excludes it from the job."""


class GaveUpError(Error):
    """No server answered in the time of `give_up_after`."""


class DatasetError(Error):
    """A dataset or its index cannot be used."""


class StateError(Error, ValueError):
    """A state belongs to other data, another recipe or another world."""


class ServerError(Error):
    """The server of a path could not be started."""


class ForkError(Error, RuntimeError):
    """A loader is used in a process that was forked from the one that made it."""


class InternalError(Error):
    """A fault of forebay itself, such as a panic of one of its threads."""


class ForebayWarning(UserWarning):
    """What goes wrong and is retried, such as a server that does not answer."""

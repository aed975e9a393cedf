"""What a user can cause: one sentence that says what is wrong and what to do."""


class UserError(ValueError):
    """A mistake in the command, the configuration or the files a user gave us.

    The command line prints its message alone and ends with code 2. The message is one or two
    sentences: what is wrong, with the value that was given, and what to do about it.
    """


class Incomplete(RuntimeError):
    """Part of a run could not be made and the rest is kept: says what is missing and how to go on; exit code 1."""

"""The one exception that a person is meant to read."""


class UserError(ValueError):
    """Something a user can mend. Its text is one line: the file or key, the value, and what to do.

    Commands print that line and exit with status 2; every other exception is a defect and keeps its traceback.
    """

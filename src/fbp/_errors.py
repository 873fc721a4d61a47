"""The error for input from the user that cannot be used."""


class InputError(ValueError):
    """Input from the user cannot be used; the message is one line, to be shown as it is."""

"""What the user gave cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used; the message is the one line to show."""

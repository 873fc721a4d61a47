"""What is wrong with input from the user: the error, and the words that warn."""


class InputError(ValueError):
    """Input from the user cannot be used; the message is one line, to be shown as it is."""


# How lines begin that must not be overlooked.
LOUD = ("WARNING", "NOT USED")

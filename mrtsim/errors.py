"""What a user did wrong, said once and clearly."""


class InputError(ValueError):
    """The input or the arguments are wrong; the message says what, where, and what would be right.

    The command line prints the message on standard error and exits with code 2.
    """

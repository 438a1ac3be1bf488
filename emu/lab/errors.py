"""What an experiment raises when it cannot run or when it did not come out as it must."""


class LabError(Exception):
    """An experiment cannot run; the message is one line that says what to do."""


class WrongOption(LabError):  # noqa: N818 - it names what is wrong, as typer's BadParameter does
    """An option has a value that it cannot have: wrong usage. The message begins with the option and the value."""


class BrokenExpectation(LabError):  # noqa: N818 - it says what broke, which is no error of the program
    """The experiment ran, and its outcome is not what it must be."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: all cleans up as after Ctrl-C, and what catches errors lets it pass.

    `number` is the signal's; `left` says what is left behind.
    """

    def __init__(self, number: int, left: str = "cleaned up") -> None:
        super().__init__(number)
        self.number = number
        self.left = left

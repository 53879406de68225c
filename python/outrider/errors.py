"""The one exception type."""


class OutriderError(Exception):
    """What is wrong and where; `code` names the kind ("UnknownMode"), `hint` the next step."""

    def __init__(self, message: str, code: str = "InvalidArgument", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nhint: {self.hint}" if self.hint else message

    def __reduce__(self) -> tuple:
        return (type(self), (self.args[0], self.code, self.hint))

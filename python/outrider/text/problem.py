"""What is wrong with one conversation, and how its pieces are checked."""

from .tool import printable


class Problem(ValueError):
    """What is wrong with one conversation; `hint`: a way out that is not that of every problem."""

    def __init__(self, message, hint=""):
        super().__init__(message)
        self.hint = hint


def kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean",
             type(None): "null"}
    return names.get(type(value), "a number")


def quoted(names):
    return " and ".join(f"'{printable(name, 60)}'" for name in names)


def checked_string(value, where):
    if not isinstance(value, str):
        raise Problem(f"{where}: expected a string, got {kind(value)}")
    check_encodable(value, where)
    return value


def check_encodable(text, where):
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise Problem(f"{where}: half a surrogate pair at character {e.start + 1}") from e

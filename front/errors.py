"""Exceptions for mistakes of a user. Each message is one line: the thing, the value, what is accepted."""


class SdeditError(Exception):
    """Base of all errors that this package raises for something outside it."""

    def __str__(self) -> str:
        """The message on one line: line ends and controls in it, of a file's name for example, are escaped."""
        return printable(super().__str__())


class BundleError(SdeditError):
    """A bundle is missing, damaged, of another revision, or reaches outside its folder."""


class CheckpointError(SdeditError):
    """A checkpoint cannot be read, is not recognised, or leaves something unsaid."""


class ImageError(SdeditError):
    """A guide, mask or photo cannot be used, or an image cannot be written."""


class PlanError(SdeditError):
    """The arguments of an edit do not make a plan."""


class EngineError(SdeditError):
    """An engine or device is missing, refuses the network, or returns what cannot be used."""


class DeviceLostError(EngineError):
    """A GPU was lost during an edit, or before: its editor makes no edits any more, and others may."""


class HubError(SdeditError):
    """A model of the Hugging Face Hub cannot be found, downloaded or pushed."""


class CancelledError(SdeditError):
    """An edit was cancelled, or its editor closed, before it was done."""


def printable(text: str) -> str:
    """The text for a terminal: what does not print (controls, line ends, broken characters) is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: Exception) -> str:
    """Message of another library's error, on one line of at most 300 characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def install_hint(extra: str) -> str:
    """The end of a message about a missing package: the command that installs sdedit's extra.

    No index has sdedit: it is installed from a clone or a wheel file, and pip takes the extra behind either's path.
    """
    return f"pip install 'PATH[{extra}]', where PATH is sdedit's clone or wheel file"


def shown(value: object) -> str:
    """The value as Python writes it, for a message: on one line, of at most 80 characters."""
    try:
        text = printable(" ".join(repr(value).split()))
    except Exception:  # a class that fails, or an integer of more than 4,300 digits
        return "of thousands of digits" if isinstance(value, int) else f"of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def out_of_memory(what: str, error: MemoryError) -> str:
    """Message for `what`, which found not enough memory; numpy says how much was wanted."""
    return f"not enough memory for {what}" + (f": {reason(error)}" if str(error) else "")


def comes_from_interrupt(error: BaseException | None) -> bool:
    """Whether a Ctrl-C caused the error: packages that are being imported turn KeyboardInterrupt into ImportError."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        if isinstance(error, ImportError) and KeyboardInterrupt.__name__ in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_interrupt(error: BaseException) -> None:
    """Raise KeyboardInterrupt if a Ctrl-C caused the error. To be called first wherever ImportError is caught."""
    if comes_from_interrupt(error):
        raise KeyboardInterrupt from None


def git_lfs_hint(head: bytes) -> str:
    """The end of a message about a file that begins with `head`: it is not empty for a pointer of Git LFS."""
    if not head.startswith(b"version https://git-lfs.github.com/spec/"):
        return ""
    return ": it is a pointer of Git LFS, whose file was not downloaded; run `git lfs pull` in its repository"

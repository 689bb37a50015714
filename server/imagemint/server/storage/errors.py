"""The error of the package."""


class StoreError(OSError):
    """The object store cannot be read, or does not have what it should.

    Args:
        message: what is wrong.
        lasting: whether the address or the credentials are the cause, so that a retry is unlikely
            to help.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        self.lasting = lasting
        super().__init__(message)

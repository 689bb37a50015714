"""What can go wrong in an export; the texts are written for the person who ran it."""

from imagemint.engine import ImagemintError


class ExportError(ImagemintError):
    """No bundle was written.

    Args:
        message: why, and with which figures.
    """

    reason = "EXPORT_FAILED"

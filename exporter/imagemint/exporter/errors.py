"""Errors of the export. Their texts address the user of the command."""

from imagemint.engine import ImagemintError


class ExportError(ImagemintError):
    """No bundle was written.

    Args:
        message: the reason, with the figures.
    """

    reason = "EXPORT_FAILED"

"""The subcommands that the server adds to `imagemint`."""

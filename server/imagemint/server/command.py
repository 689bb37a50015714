"""The command ``imagemint serve``; import-light, so that listing commands needs no extra."""

from imagemint.server.settings import ServeSettings


class Serve(ServeSettings):
    """Serves a model repository over gRPC, until SIGTERM."""

    def run(self) -> int:
        """Serves; returns 0 after a clean drain."""
        import asyncio  # noqa: PLC0415 - import-light

        from imagemint.server.app import App, log_settings  # noqa: PLC0415
        from imagemint.server.logs import configure_logs  # noqa: PLC0415

        configure_logs(self.log_format, self.log_level)
        log_settings(self)
        asyncio.run(App(self).run())
        return 0

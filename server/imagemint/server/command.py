"""The command ``imagemint serve``; import-light, so that listing commands needs no extra."""

from imagemint.server.settings import ServeSettings


class Serve(ServeSettings):
    """Serves a model repository over gRPC, until SIGTERM."""

    def run(self) -> int:
        """Serves; returns 0 after a clean drain."""
        import asyncio  # noqa: PLC0415 - import-light

        from imagemint.server.logs import configure_logs, log_settings  # noqa: PLC0415

        configure_logs(self.log_format, self.log_level)
        log_settings(self)
        if self.processes > 1:
            from imagemint.server.processes.supervisor import Supervisor  # noqa: PLC0415

            # This class may be one that the command line made up; workers could not unpickle it.
            settings = ServeSettings.model_validate(self.model_dump())
            return asyncio.run(Supervisor(settings).run())
        from imagemint.server.app import App  # noqa: PLC0415 - the supervisor does without
        from imagemint.server.runtime import run  # noqa: PLC0415

        run(App(self).run())
        return 0

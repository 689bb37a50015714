"""The command ``imagemint serve``; import-light, so that listing commands needs no extra."""

import os
import signal

from imagemint.server.settings import ServeSettings

_FILES_OF_PROMETHEUS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


class Serve(ServeSettings):
    """Serves a model repository over gRPC, until SIGTERM."""

    def run(self) -> int:
        """Serves; returns 0 after a clean drain."""
        # Until the event loop handles them there is nothing to take down. The first process of a
        # container gets only the signals that it handles, so without this it would not even end.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        from imagemint.server.telemetry import logs  # noqa: PLC0415 - import-light

        # A hangup reloads; until somebody does that it must not end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # It would make prometheus-client count in memory maps of files, which a full disk kills.
        for variable in _FILES_OF_PROMETHEUS:
            os.environ.pop(variable, None)
        logs.configure_logs(self.log_format, self.log_level)
        try:
            logs.log_settings(self)
            return self._serve()
        finally:
            logs.close_logs()

    def _serve(self) -> int:
        if self.processes > 1:
            import asyncio  # noqa: PLC0415 - import-light

            from imagemint.server.processes.supervisor import Supervisor  # noqa: PLC0415

            # This class may be one that the command line made up; workers could not unpickle it.
            settings = ServeSettings.model_validate(self.model_dump())
            return asyncio.run(Supervisor(settings).run())
        from imagemint.server.app import App  # noqa: PLC0415 - the supervisor does without
        from imagemint.server.event_loop import leave_now, run  # noqa: PLC0415

        app = App(self)
        run(app.run())
        if app.leaves_work:
            leave_now(0)
        return 0

"""The command ``imagemint serve``. It imports little, so that listing commands needs no extra."""

import os
import signal

from imagemint.server.settings import ServeSettings

_PROMETHEUS_FILE_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


class Serve(ServeSettings):
    """Serves a model repository over gRPC and HTTP until SIGTERM."""

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT, and returns 0 after a clean drain."""
        # Before the event loop handles these signals there is nothing to drain. Process 1 of a
        # container receives only signals that it handles, so without this it would not end at all.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        # SIGHUP reloads later. Until then it must not end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from imagemint.server.telemetry import logs  # noqa: PLC0415 - import-light

        # These variables make prometheus-client count in memory-mapped files. Writing to them on a
        # full disk kills the process.
        for variable in _PROMETHEUS_FILE_VARIABLES:
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

            from imagemint.server.processes.supervisor import Supervisor  # noqa: PLC0415 - import-light

            return asyncio.run(Supervisor(self).run())
        from imagemint.server.app import App  # noqa: PLC0415 - the supervisor does not need it
        from imagemint.server.event_loop import exit_now, run  # noqa: PLC0415 - likewise

        app = App(self)
        run(app.run())
        if app.leaves_work:
            exit_now(0)
        return 0

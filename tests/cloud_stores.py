"""Google Cloud Storage and Azure Blob Storage on loopback, by their emulators. Imported by name.

`make store-test` installs the emulators and the file systems into `.venv-stores`. Without them the
tests are skipped, with the reason.
"""

import importlib
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import fsspec
import httpx
import pytest
from free_ports import find_free_port

AZURITE = Path(__file__).parents[1] / ".venv-stores/node/node_modules/.bin/azurite-blob"
BUCKET = "sets"
# The published account of all Azure emulators.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_MISSING = "{} is not installed: make store-test"


def _need(module):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        pytest.skip(_MISSING.format(module))


@contextmanager
def google_store(set_variable):
    """Runs gcp-storage-emulator with an empty bucket, and leads gcsfs to it by variables.

    Args:
        set_variable: sets an environment variable, by name and value.

    Yields:
        The scheme of addresses, and the file system.
    """
    port = find_free_port()
    set_variable("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    set_variable("NO_GCE_CHECK", "true")  # no search for the identity of a machine
    set_variable("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google about the bucket
    set_variable("NO_PROXY", "127.0.0.1")
    _need("gcsfs")  # after the variables, which it reads when it is imported
    server = _need("gcp_storage_emulator.server")
    emulator = server.create_server("127.0.0.1", port, in_memory=True)
    emulator.start()
    try:
        bucket = httpx.post(
            f"http://127.0.0.1:{port}/storage/v1/b",
            json={"name": BUCKET},
            trust_env=False,
            timeout=60,
        )
        bucket.raise_for_status()
        yield "gs", fsspec.filesystem("gs", token="anon", skip_instance_cache=True)  # noqa: S106 - none
    finally:
        emulator.stop()


@contextmanager
def azure_store(set_variable):
    """Runs azurite with an empty container, and leads adlfs to it; as `google_store`."""
    _need("adlfs")
    if not AZURITE.exists():
        pytest.skip(_MISSING.format("azurite"))
    options = ("--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck")
    command = [AZURITE, "--blobHost=127.0.0.1", "--blobPort=0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            line = next(line for line in emulator.stdout if "successfully listen" in line)
            endpoint = f"{re.search(r'http://[0-9.:]+', line)[0]}/{_ACCOUNT}"
            account = f"AccountName={_ACCOUNT};AccountKey={_KEY};BlobEndpoint={endpoint};"
            text = f"DefaultEndpointsProtocol=http;{account}"
            set_variable("AZURE_STORAGE_CONNECTION_STRING", text)
            set_variable("NO_PROXY", "127.0.0.1")
            files = fsspec.filesystem("az", connection_string=text, skip_instance_cache=True)
            files.mkdir(BUCKET)
            yield "az", files
        finally:
            emulator.terminate()
            emulator.communicate()  # it prints until it ends

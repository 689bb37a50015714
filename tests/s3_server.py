"""An S3-compatible server on loopback (moto in server mode). Imported by name."""

from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "sets"


@contextmanager
def s3_server(set_variable):
    """Runs a server with an empty bucket, and sets the variables that lead clients to it.

    Args:
        set_variable: sets an environment variable, by name and value.

    Yields:
        A function that returns the bytes of all objects under a prefix by the rest of their keys.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in variables.items():
        set_variable(name, value)
    bucket = boto3.resource("s3", endpoint_url=variables["AWS_ENDPOINT_URL"]).Bucket(BUCKET)
    bucket.create()

    def read(prefix):
        return {
            each.key.removeprefix(prefix): each.get()["Body"].read()
            for each in bucket.objects.filter(Prefix=prefix)
        }

    try:
        yield read
    finally:
        bucket.objects.delete()  # servers of one process share their objects
        bucket.delete()
        server.stop()

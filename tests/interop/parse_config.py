"""Prints a config.pbtxt as JSON, parsed with Triton's schema. Runs in .venv-triton."""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

config = text_format.Parse(Path(sys.argv[1]).read_text(), model_config_pb2.ModelConfig())
sys.stdout.write(json_format.MessageToJson(config, preserving_proto_field_name=True))

"""The page of the RPCs and the page of the bundle manifest, from the comments in proto/."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from markdown_text import GENERATED, escape, format_table, join_paragraphs

PACKAGE = "imagemint.v1"
_PAGES = {
    "grpc.md": (
        "gRPC API",
        (
            "The services of the package `imagemint.v1`. [proto/](../../proto/README.md) has the "
            "schemas. [Errors](errors.md) lists the status codes and reasons. A client in another "
            "language needs only the schemas and [sampling.md](../sampling.md)."
        ),
        ("generation_service", "translation_service", "model_service", "image"),
    ),
    "manifest.md": (
        "Bundle manifest",
        (
            "The ONNX file of a bundle describes itself: `metadata_props` has the key "
            "`imagemint.manifest`, and its value is the JSON form of `BundleManifest`. `GetModel` "
            "returns the same message."
        ),
        ("manifest",),
    ),
}
_LABEL = FieldDescriptorProto.Label
_TYPE = FieldDescriptorProto.Type


@dataclass(frozen=True)
class _File:
    """A schema with its comments by path, as `SourceCodeInfo` numbers the declarations."""

    descriptor: FileDescriptorProto
    comments: Mapping[tuple[int, ...], str]
    places: Mapping[str, str]

    def get_comment(self, *path: int) -> str:
        return self.comments.get(path, "")


def render(root: Path) -> dict[str, str]:
    """Returns the pages by name: `grpc.md` and `manifest.md`."""
    files = {Path(each.name).stem: each for each in _compile(root / "proto")}
    places = {
        f".{PACKAGE}.{declared.name}": page
        for page, (_, _, stems) in _PAGES.items()
        for stem in stems
        for declared in _list_declared(files[stem])
    }
    return {
        page: GENERATED
        + f"# {title}\n\n{head}\n"
        + "".join(
            _render_file(_read(files[stem], {k: _make_link(v, page) for k, v in places.items()}))
            for stem in stems
        )
        for page, (title, head, stems) in _PAGES.items()
    }


def _list_declared(file: FileDescriptorProto) -> Iterator[DescriptorProto | EnumDescriptorProto]:
    yield from file.message_type
    yield from file.enum_type


def _make_link(target: str, page: str) -> str:
    return "" if target == page else target


def _compile(proto: Path) -> Sequence[FileDescriptorProto]:
    """Returns the files of the package, compiled with their comments."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={proto}"]
        command += ["--include_source_info", f"--descriptor_set_out={out}"]
        subprocess.run([*command, *sorted((proto / "imagemint/v1").glob("*.proto"))], check=True)
        return FileDescriptorSet.FromString(out.read_bytes()).file


def _read(descriptor: FileDescriptorProto, places: Mapping[str, str]) -> _File:
    comments = {
        tuple(location.path): location.leading_comments
        for location in descriptor.source_code_info.location
        if location.leading_comments
    }
    return _File(descriptor, comments, places)


def _render_file(file: _File) -> str:
    descriptor = file.descriptor
    text = ""
    for number, service in enumerate(descriptor.service):
        text += f"\n## {service.name}\n\n{join_paragraphs(file.get_comment(6, number))}\n"
        for index, method in enumerate(service.method):
            comment = join_paragraphs(file.get_comment(6, number, 2, index))
            signature = _format_signature(file, method)
            text += f"\n### {service.name}.{method.name}\n\n{signature}\n\n{comment}\n"
    if descriptor.message_type or descriptor.enum_type:
        text += f"\n## Messages of {Path(descriptor.name).name}\n"
    for number, message in enumerate(descriptor.message_type):
        text += _render_message(file, message, (4, number), "")
    for number, enum in enumerate(descriptor.enum_type):
        text += _render_enum(file, enum, (5, number))
    return text


def _format_signature(file: _File, method: MethodDescriptorProto) -> str:
    request = ("stream of " * method.client_streaming) + _format_reference(file, method.input_type)
    response = ("stream of " * method.server_streaming) + _format_reference(
        file, method.output_type
    )
    return f"{request} → {response}"


def _render_message(
    file: _File, message: DescriptorProto, path: tuple[int, ...], outer: str
) -> str:
    name = f"{outer}{message.name}"
    text = f"\n### {name}\n\n{join_paragraphs(file.get_comment(*path))}\n"
    if message.field:
        text += "\n" + format_table(("field", "type", "meaning"), _list_fields(file, message, path))
    for number, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            text += _render_message(file, nested, (*path, 3, number), f"{name}.")
    for number, enum in enumerate(message.enum_type):
        text += _render_enum(file, enum, (*path, 4, number), f"{name}.")
    return text


def _list_fields(
    file: _File, message: DescriptorProto, path: tuple[int, ...]
) -> Iterator[tuple[str, str, str]]:
    maps = {each.name: each for each in message.nested_type if each.options.map_entry}
    for number, field in enumerate(message.field):
        entry = maps.get(field.type_name.rpartition(".")[2])
        if entry:
            key, value = (_format_field_type(file, each) for each in entry.field)
            kind = f"map of {key} to {value}"
        else:
            kind = _format_field_type(file, field)
            if field.label == _LABEL.LABEL_REPEATED:
                kind = f"repeated {kind}"
            elif field.proto3_optional:
                kind = f"optional {kind}"
            elif field.HasField("oneof_index"):
                kind = f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
        yield f"`{field.name}`", kind, escape(file.get_comment(*path, 2, number))


def _format_field_type(file: _File, field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _format_reference(file, field.type_name)
    return f"`{_TYPE.Name(field.type).removeprefix('TYPE_').lower()}`"


def _format_reference(file: _File, type_name: str) -> str:
    name = type_name.removeprefix(f".{PACKAGE}.")
    place = file.places.get(".".join(type_name.split(".")[:4]))
    if place is None:
        return f"`{name}`"
    return f"[`{name}`]({place}#{name.lower().replace('.', '')})"


def _render_enum(
    file: _File, enum: EnumDescriptorProto, path: tuple[int, ...], outer: str = ""
) -> str:
    rows = (
        (f"`{value.name}`", str(value.number), escape(file.get_comment(*path, 2, number)))
        for number, value in enumerate(enum.value)
    )
    head = f"\n### {outer}{enum.name}\n\n{join_paragraphs(file.get_comment(*path))}\n\n"
    return head + format_table(("value", "number", "meaning"), rows)

"""JSON schemas of messages, made from their protobuf descriptors."""

from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]

# 64-bit integers are text in the JSON mapping; a number is accepted as well.
UINT64: Schema = {"type": "string", "pattern": r"^(0|[1-9][0-9]{0,19})$"}
"""Schema of an unsigned integer of 64 bits, as text."""
_NUMBER = {
    "oneOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]
}
INT32: Schema = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
"""Schema of a signed integer of 32 bits."""

_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: _NUMBER,
    FieldDescriptor.TYPE_FLOAT: _NUMBER,
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]{1,19}$"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_UINT64: UINT64,
}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
}


def refer(name: str) -> Schema:
    """Returns a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def add_schema(kind: Descriptor, schemas: dict[str, Schema], *, is_answer: bool = False) -> Schema:
    """Adds the schema of a message and of those inside, and returns a reference to it.

    Answers have all fields without presence, even those with their default, so these are required
    there. A message that is part of requests as well has one schema, with the required fields.

    Args:
        kind: type of the message.
        schemas: the schemas of the document, by name.
        is_answer: whether the server sends the message.
    """
    if (known := _WELL_KNOWN.get(kind.full_name)) is not None:
        return known
    if kind.name not in schemas or (is_answer and "required" not in schemas[kind.name]):
        printed = [field.json_name for field in kind.fields if not field.has_presence]
        required: Schema = {"required": printed} if is_answer else {}
        schemas[kind.name] = required  # a message may contain itself
        fields = {
            field.json_name: _describe_field(field, schemas, is_answer=is_answer)
            for field in kind.fields
        }
        schemas[kind.name] = {
            "type": "object",
            "properties": fields,
            **required,
            "additionalProperties": False,
        }
    return refer(kind.name)


def _describe_field(
    field: FieldDescriptor, schemas: dict[str, Schema], *, is_answer: bool
) -> Schema:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        value = _describe_value(kind.fields_by_name["value"], schemas, is_answer=is_answer)
        return {"type": "object", "additionalProperties": value}
    value = _describe_value(field, schemas, is_answer=is_answer)
    return {"type": "array", "items": value} if field.is_repeated else value


def _describe_value(
    field: FieldDescriptor, schemas: dict[str, Schema], *, is_answer: bool
) -> Schema:
    if field.message_type is not None:
        return add_schema(field.message_type, schemas, is_answer=is_answer)
    if field.enum_type is not None:
        return _describe_enum(field.enum_type)
    return _SCALARS[field.type]


def _describe_enum(kind: EnumDescriptor) -> Schema:
    return {"type": "string", "enum": [value.name for value in kind.values]}

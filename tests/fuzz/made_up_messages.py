"""Strategies for protobuf messages with optional fields, edge cases and plausible values."""

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

# Values that reach the interesting code, by the name of the field.
_HINTS = {
    "model": ["digits", "people", "plain", "bounded", "styled", "nobody"],
    "model_name": ["digits", "people", "plain", "bounded", "styled", "nobody"],
    "name": [
        "digits",
        "people",
        "plain",
        "z",
        "seed",
        "index",
        "class_id",
        "text",
        "tokens",
        "truncation",
        "image",
        "serial",
    ],
    "version": ["", "1", "2", "01", "-1"],
    "model_version": ["", "1", "2"],
    "class_label": ["0", "9", "ten"],
    "datatype": ["FP32", "FP64", "INT64", "UINT64", "BYTES"],
    "service": ["", "model/digits", "imagemint.v1.GenerationService"],
    "count": [0, 1, 2, 3, 64, 1024, 1025],
    "chunk_size": [0, 1, 7, 1024, 1025],
    "columns": [0, 1, 2, 1024],
    "shape": [0, 1, 2, 8, -1],
    "class_id": [-1, 0, 9, 10],
    "class_ids": [-1, 0, 9, 10],
    "truncation": [0.0, 0.25, 0.7, 1.0, 4.0],
    "quality": [0, 1, 100, 101],
    "key": ["priority", "timeout"],
}
_DEEPEST = 4

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}


def messages(descriptor, depth=0):
    """Returns a strategy for messages of a type."""
    kind = message_factory.GetMessageClass(descriptor)
    fields = {
        field.name: st.deferred(lambda field=field: _values(field, depth))
        for field in descriptor.fields
        if depth < _DEEPEST or field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE
    }

    def build(values):
        message = kind()
        for name, value in values.items():
            field = descriptor.fields_by_name[name]
            if _is_map(field):
                target = getattr(message, name)
                for key, item in value:
                    if field.message_type.fields_by_name["value"].message_type:
                        target[key].CopyFrom(item)
                    else:
                        target[key] = item
            elif field.is_repeated:
                getattr(message, name).extend(value)
            elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                getattr(message, name).CopyFrom(value)
            else:
                setattr(message, name, value)
        return message

    return st.fixed_dictionaries({}, optional=fields).map(build)


def _is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _values(field, depth):
    if _is_map(field):
        entry = field.message_type.fields_by_name
        pairs = st.tuples(_one(entry["key"], depth), _one(entry["value"], depth + 1))
        return st.lists(pairs, max_size=3)
    one = _one(field, depth + 1)
    return st.lists(one, max_size=5) if field.is_repeated else one


def _one(field, depth):
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type, depth)
    strategy = _scalars(field)
    if field.name in _HINTS:
        return st.one_of(st.sampled_from(_HINTS[field.name]), strategy)
    return strategy


def _scalars(field):  # noqa: PLR0911 - one return for each type
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.one_of(st.binary(max_size=40), st.integers(0, 64).map(bytes))
        case FieldDescriptor.CPPTYPE_STRING:
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        case FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats(width=32)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats()
        case FieldDescriptor.CPPTYPE_ENUM:
            known = [value.number for value in field.enum_type.values]
            return st.one_of(st.sampled_from(known), st.integers(-(2**31), 2**31 - 1))
        case kind:
            return st.one_of(st.sampled_from([0, 1, 2]), _INTEGERS[kind])

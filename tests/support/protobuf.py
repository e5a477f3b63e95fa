"""A Protobuf schema and a message of it, written without a compiler."""

from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from almenara_nats.settings import ProtobufSchema

NOTE: Final = b"\x0a\x06US-101\x12\x05error\x18\x96\x01"
"""A `fleet.v1.Note` with the story US-101, the level error and the count 150."""


def write_schema(path: Path) -> ProtobufSchema:
    """Write the schema of `fleet.v1.Note`, with a `story_id`, a `level` and a `count`."""
    files = FileDescriptorSet()
    file = files.file.add(name="note.proto", package="fleet.v1", syntax="proto3")
    message = file.message_type.add(name="Note")
    for number, (name, kind) in enumerate(
        (
            ("story_id", FieldDescriptorProto.TYPE_STRING),
            ("level", FieldDescriptorProto.TYPE_STRING),
            ("count", FieldDescriptorProto.TYPE_UINT64),
        ),
        1,
    ):
        message.field.add(
            name=name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL
        )
    path.write_bytes(files.SerializeToString())
    return ProtobufSchema(subjects=["notes.>"], message="fleet.v1.Note", descriptor_set=path)

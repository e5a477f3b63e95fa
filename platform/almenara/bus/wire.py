"""Signals in messages between processes: msgpack, with payloads as the JSON that the bus stores."""

import msgspec

from almenara.signals import Event, Resource, Sample, Signal

encode_json = msgspec.json.Encoder().encode
decode_resource = msgspec.json.Decoder(Resource).decode


class WireSignal(msgspec.Struct, array_like=True):
    """A signal on the wire; the payload of an event and a whole resource are JSON there, as on the
    bus, so that both sides accept the same values."""

    event: Event | None = None
    resource: bytes | None = None
    sample: Sample | None = None


def to_wire(signal: Signal) -> WireSignal:
    """Return the wire form of a normalized signal."""
    if isinstance(signal, Event):
        return WireSignal(event=msgspec.structs.replace(signal, data=bytes(signal.data)))
    if isinstance(signal, Resource):
        return WireSignal(resource=encode_json(signal))
    # msgpack has 64-bit integers only; a sample is a floating-point number in any case.
    return WireSignal(sample=msgspec.structs.replace(signal, value=float(signal.value)))


def from_wire(entry: WireSignal) -> Signal:
    """Return the signal of a wire form. Raises `ValueError` for one without any."""
    if entry.event is not None:
        if not isinstance(entry.event.data, bytes):
            raise ValueError("the data of an event is not JSON text")
        return msgspec.structs.replace(entry.event, data=msgspec.Raw(entry.event.data))
    if entry.resource is not None:
        return decode_resource(entry.resource)
    if entry.sample is None:
        raise ValueError("an entry has no signal")
    return entry.sample

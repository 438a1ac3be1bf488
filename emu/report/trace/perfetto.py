"""A trace as Perfetto's protobuf, which ui.perfetto.dev opens and its trace processor reads.

Written packet by packet, so a long trace is never in memory as protobuf. Names and messages are those of Perfetto's
protos/perfetto/trace/trace.proto, track_event/*.proto; the encoding is done by the package `perfetto`.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from emu.report.trace.model import Args, Counter, Instant, Lane, Point, Slice, Thread, Trace, nested, side_by_side

_SEQUENCE = 1
_TRACE_PACKET_TAG = b"\x0a"
_Track = Thread | Lane | Counter
_Mark = tuple[int, int, pb.TracePacket]


def write_perfetto(trace: Trace, path: Path) -> int:
    """Write a trace; return how many bytes."""
    with path.open("wb") as file:
        tracks = _Tracks(file)
        for pid, name in trace.processes.items():
            tracks.process(pid, name)
        # Stable: what happens at the same time stays in its track's order.
        marks = sorted(_marks(trace, tracks), key=lambda mark: mark[:2])
        for _at_ns, _number, packet in marks:
            _write_packet(file, packet)
        return file.tell()


def _write_packet(file: BinaryIO, packet: pb.TracePacket) -> None:
    """Write one element of Trace.packet: its tag, its length as a varint, itself."""
    data = packet.SerializeToString()
    length, varint = len(data), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    file.write(_TRACE_PACKET_TAG + bytes(varint) + data)


class _Tracks:
    """Describes each track once, before anything is on it, and knows its number."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._uuids: dict[object, int] = {}

    def _new(self, key: object) -> tuple[pb.TracePacket, int]:
        uuid = self._uuids[key] = len(self._uuids) + 1
        packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
        if uuid == 1:
            packet.sequence_flags = pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.track_descriptor.uuid = uuid
        return packet, uuid

    def process(self, pid: int, name: str) -> int:
        """Return the number of a process's track."""
        found = self._uuids.get(pid)
        if found is None:
            packet, found = self._new(pid)
            packet.track_descriptor.process.pid = pid
            packet.track_descriptor.process.process_name = name
            _write_packet(self._file, packet)
        return found

    def track(self, track: _Track, row: int = 0) -> int:
        """Return the number of a track; rows of a lane that overlaps itself have the same name, and are merged."""
        found = self._uuids.get((track, row))
        if found is not None:
            return found
        parent = self.process(track.pid, track.process if isinstance(track, Thread) else f"process {track.pid}")
        packet, found = self._new((track, row))
        told = packet.track_descriptor
        told.parent_uuid = parent
        if isinstance(track, Thread):
            told.thread.pid, told.thread.tid, told.thread.thread_name = track.pid, track.tid, track.name
        else:
            told.name = track.name
            if isinstance(track, Counter):
                told.counter.unit_name = track.unit
        _write_packet(self._file, packet)
        return found


def _marks(trace: Trace, tracks: _Tracks) -> Iterator[_Mark]:
    """Yield (time, order, packet) of everything; of marks at one time, ends come before begins."""
    by_track: dict[Thread | Lane, list[Slice]] = defaultdict(list)
    for one in trace.slices:
        by_track[one.track].append(one)
    number = 0
    for track, slices in by_track.items():
        for row, own in enumerate(side_by_side(slices) if isinstance(track, Lane) else [slices]):
            uuid = tracks.track(track, row)
            for at_ns, begins, one in nested(own):
                number += 1
                yield at_ns, number, _slice_mark(one, at_ns, uuid, begins=begins)
    for instant in trace.instants:
        number += 1
        yield instant.at_ns, number, _instant_mark(instant, tracks.track(instant.track))
    for point in trace.points:
        number += 1
        yield point.at_ns, number, _point_mark(point, tracks.track(point.counter))


def _packet(at_ns: int, uuid: int, kind: int) -> pb.TracePacket:
    packet = pb.TracePacket(timestamp=at_ns, trusted_packet_sequence_id=_SEQUENCE)
    packet.track_event.track_uuid = uuid
    packet.track_event.type = kind
    return packet


def _slice_mark(one: Slice, at_ns: int, uuid: int, *, begins: bool) -> pb.TracePacket:
    if not begins:
        return _packet(at_ns, uuid, pb.TrackEvent.TYPE_SLICE_END)
    packet = _packet(at_ns, uuid, pb.TrackEvent.TYPE_SLICE_BEGIN)
    packet.track_event.name = one.name
    _annotate(packet, one.args)
    return packet


def _instant_mark(instant: Instant, uuid: int) -> pb.TracePacket:
    packet = _packet(instant.at_ns, uuid, pb.TrackEvent.TYPE_INSTANT)
    packet.track_event.name = instant.name
    _annotate(packet, instant.args)
    return packet


def _point_mark(point: Point, uuid: int) -> pb.TracePacket:
    packet = _packet(point.at_ns, uuid, pb.TrackEvent.TYPE_COUNTER)
    if isinstance(point.value, int):
        packet.track_event.counter_value = point.value
    else:
        packet.track_event.double_counter_value = point.value
    return packet


def _annotate(packet: pb.TracePacket, args: Args) -> None:
    for name, value in args.items():
        note = packet.track_event.debug_annotations.add()
        note.name = name
        if isinstance(value, int):
            note.int_value = value
        else:
            note.string_value = value

"""Values that a client returns. Their fields have the names of docs/protocol.md in snake case."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

Decoder = Callable[[Any], Any]
_DECODERS: dict[Any, Optional[Decoder]] = {}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _decoder(kind: Any) -> Optional[Decoder]:
    """Makes the conversion from JSON to a type; `None` if the JSON is the value."""
    if kind in _DECODERS:
        return _DECODERS[kind]
    made: Optional[Decoder] = None
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        made = _list(_decoder(arguments[0]))
    elif type(None) in arguments:
        made = _decoder(next(one for one in arguments if one is not type(None)))
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
        made = _record(kind)
    _DECODERS[kind] = made
    return made


def _list(each: Optional[Decoder]) -> Optional[Decoder]:
    return None if each is None else lambda values: [each(value) for value in values]


def _record(kind: type) -> Decoder:
    hints = typing.get_type_hints(kind)
    names = [(field.name, _camel(field.name)) for field in dataclasses.fields(kind)]
    nested = [(name, made) for name, _ in names if (made := _decoder(hints[name])) is not None]

    def decode_record(value: Mapping[str, Any]) -> Any:
        # The constructor of a frozen class would set the fields one after another, slowly.
        record: Any = object.__new__(kind)
        fields = record.__dict__
        get = value.get
        for name, key in names:
            fields[name] = get(key)
        for name, made in nested:
            if fields[name] is not None:
                fields[name] = made(fields[name])
        return record

    return decode_record


def decode(kind: Any, value: Any) -> Any:
    """Converts JSON to a value of a type: a dataclass, a list, something optional, or what it is."""
    made = None if value is None else _decoder(kind)
    return value if made is None else made(value)


@dataclass(frozen=True)
class Principal:
    """A user, group or organization that a grant names."""

    kind: str
    id: str


@dataclass(frozen=True)
class NodeContent:
    """The content of an item."""

    blob_id: str
    size: int
    digest: str
    content_type: Optional[str]


@dataclass(frozen=True)
class Node:
    """An item as this replica shows it: the confirmed state with the queued edits on top."""

    id: str
    owner: str
    type: str
    name: Optional[str]
    metadata: Mapping[str, Any]
    encrypted: Optional[Mapping[str, Any]]
    created_at: str
    modified_at: str
    access_level: str
    content: Optional[NodeContent]
    pending: bool


@dataclass(frozen=True)
class Child(Node):
    """An item under a container; `shown_name` is unique among the siblings."""

    shown_name: str
    shortcut: bool


@dataclass(frozen=True)
class TreeEntry(Node):
    """An item that a walk visits, with its path from the start of the walk."""

    path: str
    depth: int
    parent: Optional[str]
    shortcut: bool
    linked_again: Optional[str]


@dataclass(frozen=True)
class ShownItem(Node):
    """An item with its place; the path has the names as they were set."""

    path: str
    parents: list[str]


@dataclass(frozen=True)
class TreeChange:
    """A change of the tree. `type` is `appeared`, `changed`, `went`, `rebuilt`, or `missed`: then
    `count` changes were missed because the reader was too slow."""

    type: str
    id: Optional[str]
    local: Optional[bool]
    before: Optional[ShownItem]
    after: Optional[ShownItem]
    count: Optional[int]


@dataclass(frozen=True)
class StopReason:
    """The reason why background work stopped or pauses. `signature` is the `stage:code` of a violation, or
    the code of a fatal answer; `oldest_available` is the oldest position that the server can serve, if
    rematerialising would help."""

    signature: str
    message: str
    details: Optional[Mapping[str, Any]]
    oldest_available: Optional[str]


@dataclass(frozen=True)
class SyncReport:
    """The result of a sync."""

    applied: int
    outdated: int
    rejected: int
    pulled: int
    uploaded: int
    waiting: int
    uploaded_bytes: int
    pushes: int
    pages: int
    rematerialised: bool
    offered: Mapping[str, int]


@dataclass(frozen=True)
class Outstanding:
    """Work that is still to be sent, and work that was rejected."""

    pending: int
    uploads: int
    waiting: Optional[str]
    rejected: int
    rejected_uploads: int
    refused: Optional[str]
    lost: int


@dataclass(frozen=True)
class SyncState(Outstanding):
    """The state of synchronisation. `connection` is `unknown`, `online`, `live`, `polling` or `offline`."""

    connection: str
    offline_since: Optional[str]
    polling_reason: Optional[str]
    last_in_step_at: Optional[str]
    running: bool
    stopped: Optional[StopReason]
    paused: Optional[StopReason]


@dataclass(frozen=True)
class Status:
    """The state of a replica, for people and for triage."""

    client_id: str
    user: str
    server: str
    cursor: Optional[str]
    last_reconciled_write_ids: Mapping[str, int]
    pending: int
    acknowledged: int
    rejected: int
    uploads: int
    rejected_uploads: int
    lost: int
    items: int
    stopped: Optional[StopReason]
    paused: Optional[StopReason]
    running: bool


@dataclass(frozen=True)
class StoredContent:
    """A content that the replica has stored."""

    blob_id: str
    size: int
    digest: str


@dataclass(frozen=True)
class Found:
    """A page of the result of a query; `next` is the place after which the next page begins."""

    items: list[Node]
    next: Optional[Mapping[str, Any]]


@dataclass(frozen=True)
class ResultChange:
    """The difference between two results of a query; `order` has all items of the result."""

    added: list[Node]
    changed: list[Node]
    removed: list[str]
    order: list[str]


@dataclass(frozen=True)
class Grant:
    """A grant on an item."""

    principal: Principal
    level: str
    pending: bool


@dataclass(frozen=True)
class Reader:
    """A principal that may read an item; `through` is the item with the grant."""

    principal: Principal
    level: str
    through: str


@dataclass(frozen=True)
class SyncEvent:
    """An event of synchronisation. `type` says which fields are there: `item` for `revoked`, `kept` and
    `notMoved`; `item`, `owner` and `level` for `shared`; `op_id`, `item` and `reason` for `rejected` and
    `outdated`; `item` and `copy` for `conflictedCopy`; `item` and `reason` for `uploadRejected`; `stop`
    for `paused` and `stopped`; `outstanding`, `offered` and, for `missed`, `count`; none for `resumed`."""

    type: str
    item: Optional[str]
    owner: Optional[str]
    level: Optional[str]
    op_id: Optional[str]
    reason: Optional[str]
    copy: Optional[str]
    stop: Optional[StopReason]
    outstanding: Optional[Outstanding]
    offered: Optional[Mapping[str, int]]
    count: Optional[int]


@dataclass(frozen=True)
class Progress:
    """The progress of the present sync and of the downloads."""

    pushed: int
    to_push: int
    pulled: int
    uploaded: int
    to_upload: int
    uploaded_bytes: int
    downloaded: int
    to_download: int
    downloaded_bytes: int
    to_download_bytes: int


@dataclass(frozen=True)
class QueuedOperation:
    """An operation in the queue, as on the wire; `state` is `pending`, `acknowledged` or `held`."""

    operation: Mapping[str, Any]
    state: str


@dataclass(frozen=True)
class RejectedOperation:
    """An operation that the server rejected for good."""

    op_id: str
    item: str
    operation: Mapping[str, Any]
    reason: Optional[str]
    detail: Optional[str]


@dataclass(frozen=True)
class HeldUpload:
    """A content that waits for the server, or that it rejected."""

    item: str
    blob_id: str
    size: int
    reason: str


@dataclass(frozen=True)
class LostChange:
    """A change that a restored server lost and that was not offered again."""

    number: int
    item: str
    path: str
    change: Mapping[str, Any]
    reason: str
    authored_at: str


@dataclass(frozen=True)
class Trashed:
    """A deleted item that can be restored; `path` has the names from the top of the tree."""

    item: str
    type: str
    name: Optional[str]
    owner: str
    path: list[str]
    deleted_at: str
    deleted_by: str
    size: Optional[int]
    expires_at: Optional[str]
    pending: bool


@dataclass(frozen=True)
class Version:
    """A content of a file that the server keeps."""

    blob_id: str
    size: int
    digest: str
    content_type: Optional[str]
    attached_at: str
    modified_at: Optional[str]


@dataclass(frozen=True)
class CacheUsage:
    """The size of the content cache."""

    bytes: int
    contents: int
    limit: Optional[int]


@dataclass(frozen=True)
class TransportAnswer:
    """The answer to a call of a transport, in the form of HTTP."""

    body: Any
    status: int = 200
    data: Optional[bytes] = None
    retry_after: Optional[float] = None


_event_record = _record(SyncEvent)


def _event(value: Mapping[str, Any]) -> Any:
    # The reason of a pause is an object, the others are words.
    if isinstance(value.get("reason"), dict):
        value = {**value, "reason": None, "stop": value["reason"]}
    return _event_record(value)


_DECODERS[SyncEvent] = _event

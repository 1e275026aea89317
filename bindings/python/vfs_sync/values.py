"""Values that a client returns. Their fields have the names of docs/protocol.md in snake case."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Mapping, TypeVar

T = TypeVar("T")
_DECODERS: dict[type, list[tuple[str, str, Any]]] = {}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def decode(kind: Any, value: Any) -> Any:
    """Converts JSON to a value of a type: a dataclass, a list, something optional, or what it is."""
    if value is None or kind is Any:
        return value
    origin = typing.get_origin(kind)
    if origin is list:
        (each,) = typing.get_args(kind)
        return [decode(each, one) for one in value]
    if origin is not None and type(None) in typing.get_args(kind):
        (some,) = (one for one in typing.get_args(kind) if one is not type(None))
        return decode(some, value)
    if not dataclasses.is_dataclass(kind):
        return value
    assert isinstance(kind, type)
    fields = _DECODERS.get(kind)
    if fields is None:
        hints = typing.get_type_hints(kind)
        fields = [(field.name, _camel(field.name), hints[field.name]) for field in dataclasses.fields(kind)]
        _DECODERS[kind] = fields
    return kind(**{name: decode(hint, value.get(key)) for name, key, hint in fields})


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
    content_type: typing.Optional[str]


@dataclass(frozen=True)
class Node:
    """An item as this replica shows it: the confirmed state with the queued edits on top."""

    id: str
    owner: str
    type: str
    name: typing.Optional[str]
    metadata: Mapping[str, Any]
    encrypted: typing.Optional[Mapping[str, Any]]
    created_at: str
    modified_at: str
    access_level: str
    content: typing.Optional[NodeContent]
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
    parent: typing.Optional[str]
    shortcut: bool
    linked_again: typing.Optional[str]


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
    id: typing.Optional[str]
    local: typing.Optional[bool]
    before: typing.Optional[ShownItem]
    after: typing.Optional[ShownItem]
    count: typing.Optional[int]


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
    waiting: typing.Optional[str]
    rejected: int
    rejected_uploads: int
    refused: typing.Optional[str]
    lost: int


@dataclass(frozen=True)
class SyncState(Outstanding):
    """The state of synchronisation. `connection` is `unknown`, `online`, `live`, `polling` or `offline`."""

    connection: str
    offline_since: typing.Optional[str]
    polling_reason: typing.Optional[str]
    last_in_step_at: typing.Optional[str]
    running: bool
    stopped: typing.Optional[Mapping[str, Any]]
    paused: typing.Optional[Mapping[str, Any]]


@dataclass(frozen=True)
class Status:
    """The state of a replica, for people and for triage."""

    client_id: str
    user: str
    server: str
    cursor: typing.Optional[str]
    last_reconciled_write_ids: Mapping[str, int]
    pending: int
    acknowledged: int
    rejected: int
    uploads: int
    rejected_uploads: int
    lost: int
    items: int
    stopped: typing.Optional[Mapping[str, Any]]
    paused: typing.Optional[Mapping[str, Any]]
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
    next: typing.Optional[Mapping[str, Any]]


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
class TransportAnswer:
    """The answer to a call of a transport, in the form of HTTP."""

    body: Any
    status: int = 200
    data: typing.Optional[bytes] = None
    retry_after: typing.Optional[float] = None

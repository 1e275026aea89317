"""What the blocking and the asynchronous client share: reads, and the calls to the native part."""

from __future__ import annotations

import inspect
import json
import os
from datetime import datetime, timezone
from typing import Any, Callable, Mapping, Optional, Union

from . import _native
from .errors import Violation, checked, invalid, violation_of
from .values import (
    CacheUsage,
    Child,
    Grant,
    HeldUpload,
    LostChange,
    Node,
    Outstanding,
    Principal,
    QueuedOperation,
    Reader,
    RejectedOperation,
    Status,
    SyncState,
    Trashed,
    TransportAnswer,
    TreeEntry,
    decode,
)

Path = Union[str, "os.PathLike[str]"]
TokenSource = Union[str, Callable[[bool], str]]
Time = Union[str, datetime]
"""A time as RFC 3339, or a `datetime`; one without a time zone is local time."""
PrincipalLike = Union[Principal, Mapping[str, str]]
"""A `Principal`, or `{"kind": "user", "id": "bob"}`."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_QUOTED = json.encoder.encode_basestring_ascii
_PARSE = json.JSONDecoder().raw_decode
_MAX_INT = 2**64 - 1
_MIN_INT = -(2**63)


def encode(value: Any) -> str:
    """Makes JSON of a call."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(f"the call is not valid: {error}") from None


def read_text(call: str, arguments: Mapping[str, Any]) -> str:
    """Makes JSON of a read. The encoder would take longer than the call."""
    text = '{"call":"' + call + '"'
    for name, value in arguments.items():
        text += ',"' + name + '":' + (_QUOTED(value) if type(value) is str else encode(value))
    return text + "}"


def parsed(text: str) -> Any:
    """Returns the value of JSON that the native part made."""
    return _PARSE(text)[0]


def metadata_form(metadata: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """Checks that metadata comes back as it went in."""
    form = dict(metadata or {})
    _check(form, 0)
    return form


def _check(value: Any, depth: int) -> None:
    if depth > 128:
        raise invalid("the metadata is nested too deeply")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise invalid(f"a key of metadata is text, and not {key!r}")
            _check(each, depth + 1)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check(each, depth + 1)
    elif isinstance(value, int) and not _MIN_INT <= value <= _MAX_INT:
        raise invalid(f"the number in the metadata has more than 64 bits: {value:#x}"[:200])


def time_form(time: Optional[Time]) -> Any:
    if not isinstance(time, datetime):
        return time
    utc = time.astimezone(timezone.utc)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def principal_form(principal: PrincipalLike) -> dict[str, Any]:
    if isinstance(principal, Principal):
        return {"kind": principal.kind, "id": principal.id}
    return dict(principal)


def bytes_of(data: Any) -> bytes:
    """Returns the bytes of anything that has some; a number has none."""
    return data if isinstance(data, bytes) else memoryview(data).tobytes()


class TransportCall:
    """A call to the server, for a transport of the application's own."""

    def __init__(self, native: _native.PyCall) -> None:
        self._native = native
        self.kind: str = native.kind
        self.body: Any = json.loads(native.body)
        self.data: Optional[bytes] = native.data

    def forward(self) -> TransportAnswer:
        """Makes the call to the server, if the client has one behind this transport."""
        status, body, data = checked(self._native.forward)
        return TransportAnswer(json.loads(body), status, data)


Transport = Callable[[TransportCall], TransportAnswer]


def _transport(transport: Transport) -> Callable[[_native.PyCall], Any]:
    if not callable(transport):
        raise invalid("`transport` cannot be called")

    def call(native: _native.PyCall) -> Any:
        answer = transport(TransportCall(native))
        if not isinstance(answer, TransportAnswer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(f"the transport returned {type(answer).__name__}, and not a TransportAnswer")
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        return answer.status, body, answer.data, answer.retry_after

    return call


def opening(
    directory: Optional[Path],
    token: Optional[TokenSource],
    transport: Optional[Transport],
    options: Mapping[str, Any],
) -> _native.Operation:
    given = {_OPTIONS[name]: value for name, value in options.items() if value is not None}
    if directory is None:
        given.setdefault("mode", "memory")
    else:
        given["directory"] = checked(_native.path_text, os.fspath(directory))
    source: Optional[Callable[[bool], str]]
    if isinstance(token, str):
        text = token
        source = lambda refresh: text  # noqa: E731
    elif token is None or callable(token):
        source = token
    else:
        raise invalid("`token` is neither text nor a function")
    return checked(_native.open, encode(given), source, None if transport is None else _transport(transport))


_OPTIONS = {
    "mode": "mode",
    "user": "user",
    "server": "server",
    "client_id": "clientId",
    "device": "device",
    "rematerialise": "rematerialise",
    "page_limit": "pageLimit",
    "transfers": "transfers",
    "cache_size": "cacheSize",
    "interval_ms": "intervalMs",
    "live": "live",
    "live_interval_ms": "liveIntervalMs",
    "insecure_http": "insecureHttp",
    "test": "test",
}

_QUERY = {"name_prefix": "namePrefix", "modified_since": "modifiedSince", "sort_by": "sortBy"}


def query_form(query: Mapping[str, Any]) -> dict[str, Any]:
    form = {_QUERY.get(key, key): value for key, value in query.items() if value is not None}
    if "modifiedSince" in form:
        form["modifiedSince"] = time_form(form["modifiedSince"])
    return form


def put_form(item: str, modified_at: Optional[Time]) -> str:
    return encode({"item": item} if modified_at is None else {"item": item, "modifiedAt": time_form(modified_at)})


def create_edit(
    type: str, name: str, parent: Optional[str], metadata: Optional[Mapping[str, Any]], id: Optional[str]
) -> dict[str, Any]:
    edit = {"edit": "create", "type": type, "name": name, "parent": parent, "metadata": metadata_form(metadata)}
    return edit if id is None else {**edit, "id": id}


class Batch:
    """Several edits that enter the queue together. Later ones may use items that earlier ones create."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._open = True
        self.edits: list[dict[str, Any]] = []

    def _add(self, edit: dict[str, Any]) -> None:
        if not self._open:
            raise invalid("the transaction has ended: add edits before its function returns")
        self.edits.append(edit)

    def create(
        self,
        type: str,
        name: str,
        *,
        parent: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        id: Optional[str] = None,
    ) -> str:
        """Creates an item; returns its id."""
        made = self._new_id() if id is None else id
        self._add(create_edit(type, name, parent, metadata, made))
        return made

    def create_folder(
        self, name: str, *, parent: Optional[str] = None, metadata: Optional[Mapping[str, Any]] = None
    ) -> str:
        return self.create("folder", name, parent=parent, metadata=metadata)

    def create_file(
        self, name: str, *, parent: Optional[str] = None, metadata: Optional[Mapping[str, Any]] = None
    ) -> str:
        return self.create("file", name, parent=parent, metadata=metadata)

    def rename(self, item: str, name: str) -> None:
        self._add({"edit": "rename", "item": item, "name": name})

    def move(self, item: str, parent: Optional[str]) -> None:
        self._add({"edit": "move", "item": item, "parent": parent})

    def link(self, item: str, parent: str) -> None:
        self._add({"edit": "link", "item": item, "parent": parent})

    def unlink(self, item: str, parent: str) -> None:
        self._add({"edit": "unlink", "item": item, "parent": parent})

    def delete(self, item: str, *, recursive: bool = False) -> None:
        self._add({"edit": "delete", "item": item, "recursive": recursive})

    def set_metadata(self, item: str, metadata: Mapping[str, Any]) -> None:
        self._add({"edit": "setMetadata", "item": item, "metadata": metadata_form(metadata)})

    def touch(self, item: str, modified_at: Time) -> None:
        self._add({"edit": "touch", "item": item, "modifiedAt": time_form(modified_at)})

    def share(self, item: str, principal: PrincipalLike, level: str) -> None:
        self._add({"edit": "share", "item": item, "principal": principal_form(principal), "level": level})

    def unshare(self, item: str, principal: PrincipalLike) -> None:
        self._add({"edit": "unshare", "item": item, "principal": principal_form(principal)})


def batch_of(make: Callable[[Batch], Any], new_id: Callable[[], str]) -> tuple[Any, list[dict[str, Any]]]:
    """Returns the result of `make`, and the edits that it adds to a batch."""
    batch = Batch(new_id)
    try:
        result = make(batch)
    finally:
        batch._open = False
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise invalid("the function of a transaction is asynchronous: wait before the transaction")
    return result, batch.edits


class Reads:
    """The calls that read the replica: local, and immediate."""

    _native: _native.NativeClient

    def _read(self, call: str, **arguments: Any) -> Any:
        return parsed(checked(self._native.read, read_text(call, arguments)))

    @property
    def user(self) -> str:
        """The user that the replica belongs to."""
        return self._read("user")

    @property
    def client_id(self) -> str:
        """The id of this replica."""
        return self._read("clientId")

    @property
    def device(self) -> str:
        """The name of this device in the names of conflicted copies."""
        return self._read("device")

    def new_item_id(self) -> str:
        """Makes a new item id."""
        return self._read("newItemId")

    def status(self) -> Status:
        """Returns the state of the replica."""
        return decode(Status, self._read("status"))

    def sync_state(self) -> SyncState:
        """Returns the state of synchronisation; `sync_states` returns each change of it."""
        return decode(SyncState, self._read("syncState"))

    def node(self, item: str) -> Optional[Node]:
        """Returns an item, or `None` if the replica does not show it."""
        return decode(Node, self._read("node", item=item))

    def children(self, parent: Optional[str] = None) -> list[Child]:
        """Returns the children of a container, by name; without one, those at the top."""
        return decode(list[Child], self._read("children", parent=parent))

    def resolve(self, path: str) -> Node:
        """Returns the item at a path: `/docs/plan.txt`, or `shared:alice/plan.txt`."""
        return decode(Node, self._read("resolve", path=path))

    def path_of(self, item: str) -> str:
        """Returns a path of an item."""
        return self._read("pathOf", item=item)

    def parents_of(self, item: str) -> list[str]:
        """Returns the containers of an item, by id."""
        return self._read("parentsOf", item=item)

    def walk(self, root: Optional[str] = None, *, owner: Optional[str] = None, limit: int = 10_000) -> list[TreeEntry]:
        """Returns the items under a container, containers before their children: at most `limit`, which is
        at most 100,000. `owner` walks what another user shares."""
        return decode(list[TreeEntry], self._read("walk", root=root, owner=owner, limit=limit))

    def shared_owners(self) -> list[str]:
        """Lists the other users who share something with this one."""
        return self._read("sharedOwners")

    def shared_by(self, owner: str) -> list[Child]:
        """Lists what a user shares with this one."""
        return decode(list[Child], self._read("sharedBy", owner=owner))

    def shared_with_me(self) -> list[Child]:
        """Lists everything that others share with this user."""
        return decode(list[Child], self._read("sharedWithMe"))

    def grants(self, item: str) -> list[Grant]:
        """Lists the grants on an item itself."""
        return decode(list[Grant], self._read("grants", item=item))

    def audience(self, item: str) -> list[Reader]:
        """Lists who may read an item."""
        return decode(list[Reader], self._read("audience", item=item))

    def may_delete(self, item: str) -> bool:
        """Returns whether this user may delete an item."""
        return self._read("mayDelete", item=item)

    def outstanding(self) -> Outstanding:
        """Counts the work that is still to be sent, and the rejected work."""
        return decode(Outstanding, self._read("outstanding"))

    def operations(self, *, limit: int = 10_000) -> list[QueuedOperation]:
        """Lists the queued operations, in order."""
        return decode(list[QueuedOperation], self._read("operations", limit=limit))

    def rejected(self, *, limit: int = 10_000) -> list[RejectedOperation]:
        """Lists the rejected operations, the oldest first."""
        return decode(list[RejectedOperation], self._read("rejected", limit=limit))

    def rejected_uploads(self) -> list[HeldUpload]:
        """Lists the contents whose upload was rejected for good; their bytes are kept."""
        return decode(list[HeldUpload], self._read("rejectedUploads"))

    def waiting_uploads(self) -> list[HeldUpload]:
        """Lists the contents that the server could not take at the last attempt."""
        return decode(list[HeldUpload], self._read("waitingUploads"))

    def lost(self, *, after: int = 0, limit: int = 10_000) -> list[LostChange]:
        """Lists the changes after a number that a restored server lost."""
        return decode(list[LostChange], self._read("lost", after=after, limit=limit))

    def pending_trash(self) -> list[Trashed]:
        """Lists the deletions that are still queued."""
        return decode(list[Trashed], self._read("pendingTrash"))

    def cache_usage(self) -> CacheUsage:
        """Returns the size of the content cache."""
        return decode(CacheUsage, self._read("cacheUsage"))

    def export_state(self, *, redact: bool = False) -> str:
        """Returns the replica's state as canonical JSON: the same text if nothing changed."""
        return self._read("exportState", redact=redact)

    def violations(self) -> list[Violation]:
        """Returns the violated guardrails so far."""
        return [violation_of(one) for one in parsed(self._native.violations(False))]

    def take_violations(self) -> list[Violation]:
        """Removes and returns the violated guardrails so far."""
        return [violation_of(one) for one in parsed(self._native.violations(True))]

    def advance_clock(self, millis: int) -> None:
        """Moves the clock of a client that was opened with `test`."""
        checked(self._native.advance_clock, millis)

"""What the blocking and the asynchronous client share: reads, and the calls to the native part."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Mapping, Optional, Union

from . import _native
from .errors import Violation, checked, violation_of
from .values import Child, Grant, Node, Outstanding, Status, SyncState, TransportAnswer, TreeEntry, decode

Path = Union[str, "os.PathLike[str]"]
TokenSource = Union[str, Callable[[bool], str]]


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
    def call(native: _native.PyCall) -> Any:
        answer = transport(TransportCall(native))
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
    else:
        source = token
    return checked(_native.open, json.dumps(given), source, transport and _transport(transport))


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


def query_form(query: Mapping[str, Any]) -> dict[str, Any]:
    names = {"name_prefix": "namePrefix", "modified_since": "modifiedSince", "sort_by": "sortBy"}
    return {names.get(key, key): value for key, value in query.items() if value is not None}


def create_edit(
    type: str, name: str, parent: Optional[str], metadata: Optional[Mapping[str, Any]], id: Optional[str]
) -> dict[str, Any]:
    edit = {"edit": "create", "type": type, "name": name, "parent": parent, "metadata": metadata or {}}
    return edit if id is None else {**edit, "id": id}


class Batch:
    """Several edits that enter the queue together. Later ones may use items that earlier ones create."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self.edits: list[dict[str, Any]] = []

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
        made = id or self._new_id()
        self.edits.append(create_edit(type, name, parent, metadata, made))
        return made

    def create_folder(self, name: str, *, parent: Optional[str] = None) -> str:
        return self.create("folder", name, parent=parent)

    def create_file(self, name: str, *, parent: Optional[str] = None) -> str:
        return self.create("file", name, parent=parent)

    def rename(self, item: str, name: str) -> None:
        self.edits.append({"edit": "rename", "item": item, "name": name})

    def move(self, item: str, parent: Optional[str]) -> None:
        self.edits.append({"edit": "move", "item": item, "parent": parent})

    def link(self, item: str, parent: str) -> None:
        self.edits.append({"edit": "link", "item": item, "parent": parent})

    def unlink(self, item: str, parent: str) -> None:
        self.edits.append({"edit": "unlink", "item": item, "parent": parent})

    def delete(self, item: str, *, recursive: bool = False) -> None:
        self.edits.append({"edit": "delete", "item": item, "recursive": recursive})

    def set_metadata(self, item: str, metadata: Mapping[str, Any]) -> None:
        self.edits.append({"edit": "setMetadata", "item": item, "metadata": dict(metadata)})

    def touch(self, item: str, modified_at: str) -> None:
        self.edits.append({"edit": "touch", "item": item, "modifiedAt": modified_at})

    def share(self, item: str, principal: Mapping[str, str], level: str) -> None:
        self.edits.append({"edit": "share", "item": item, "principal": dict(principal), "level": level})

    def unshare(self, item: str, principal: Mapping[str, str]) -> None:
        self.edits.append({"edit": "unshare", "item": item, "principal": dict(principal)})


class Reads:
    """The calls that read the replica: local, and immediate."""

    _native: _native.NativeClient

    def _read(self, call: str, **arguments: Any) -> Any:
        return json.loads(checked(self._native.read, json.dumps({"call": call, **arguments})))

    @property
    def user(self) -> str:
        """The user that the replica belongs to."""
        return self._read("user")

    @property
    def client_id(self) -> str:
        """The id of this replica."""
        return self._read("clientId")

    def new_item_id(self) -> str:
        """Makes a new item id."""
        return self._read("newItemId")

    def status(self) -> Status:
        """Returns the state of the replica."""
        return decode(Status, self._read("status"))

    def sync_state(self) -> SyncState:
        """Returns the state of synchronisation."""
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

    def walk(self, root: Optional[str] = None, *, owner: Optional[str] = None, limit: int = 10_000) -> list[TreeEntry]:
        """Returns the items under a container, containers before their children."""
        return decode(list[TreeEntry], self._read("walk", root=root, owner=owner, limit=limit))

    def shared_with_me(self) -> list[Child]:
        """Lists everything that others share with this user."""
        return decode(list[Child], self._read("sharedWithMe"))

    def grants(self, item: str) -> list[Grant]:
        """Lists the grants on an item itself."""
        return decode(list[Grant], self._read("grants", item=item))

    def outstanding(self) -> Outstanding:
        """Counts the work that is still to be sent, and the rejected work."""
        return decode(Outstanding, self._read("outstanding"))

    def rejected(self) -> list[Mapping[str, Any]]:
        """Lists the rejected operations, the oldest first."""
        return self._read("rejected")

    def export_state(self, *, redact: bool = False) -> str:
        """Returns the replica's state as canonical JSON: the same text if nothing changed."""
        return self._read("exportState", redact=redact)

    def violations(self) -> list[Violation]:
        """Returns the violated guardrails so far."""
        return [violation_of(one) for one in json.loads(self._native.violations(False))]

    def take_violations(self) -> list[Violation]:
        """Removes and returns the violated guardrails so far."""
        return [violation_of(one) for one in json.loads(self._native.violations(True))]

    def advance_clock(self, millis: int) -> None:
        """Moves the clock of a client that was opened with `test`."""
        checked(self._native.advance_clock, millis)

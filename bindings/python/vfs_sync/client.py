"""The blocking client."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any, Callable, Iterator, Mapping, Optional

from . import _native
from ._base import Batch, Path, Reads, TokenSource, Transport, create_edit, opening, query_form
from .errors import checked, converted
from .values import Found, ResultChange, StoredContent, SyncReport, SyncState, TreeChange, decode

CHUNK = 256 * 1024


def _wait(operation: _native.Operation) -> Any:
    try:
        return operation.wait()
    except _native.NativeError as error:
        raise converted(error) from None

class Subscription(Iterator[Any]):
    """A stream of values, for `for`. It ends when it is closed, or with the client."""

    def __init__(self, native: _native.NativeSubscription, kind: Any) -> None:
        self._native = native
        self._kind = kind

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Any:
        text = _wait(self._native.next())
        if text is None:
            raise StopIteration
        return decode(self._kind, json.loads(text))

    def close(self) -> None:
        """Ends the stream."""
        self._native.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Content(Iterator[bytes]):
    """A content of an item, read once: as chunks, or as a whole."""

    def __init__(self, native: _native.NativeReader) -> None:
        self._native = native
        self.size: int = native.size
        self.digest: str = native.digest

    def __iter__(self) -> Content:
        return self

    def __next__(self) -> bytes:
        chunk: bytes = _wait(self._native.read(CHUNK))
        if not chunk:
            raise StopIteration
        return chunk

    def read(self) -> bytes:
        """Reads the rest of the bytes."""
        return b"".join([chunk for chunk in self])


class ContentWriter:
    """A content that is being written; it is queued when its block ends without an exception."""

    def __init__(self, native: _native.NativeWriter) -> None:
        self._native = native
        self._open = True

    def write(self, data: bytes) -> None:
        """Writes the next bytes."""
        _wait(self._native.write(bytes(data)))

    def finish(self) -> StoredContent:
        """Queues the content: from then on it is durable, and shown."""
        self._open = False
        return decode(StoredContent, json.loads(_wait(self._native.finish())))

    def abort(self) -> None:
        """Gives the content up."""
        self._open = False
        self._native.abort()

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self.finish()


class Client(Reads, AbstractContextManager["Client"]):
    """A client: a durable replica of a user's tree, and the connection to its server.

    Reads are local and immediate. Edits are durable, and visible, when they return, online or not.
    `sync`, or background work, exchanges them with the user's other devices.
    """

    def __init__(self, native: _native.NativeClient) -> None:
        """Use `open`."""
        self._native = native

    @classmethod
    def open(
        cls,
        directory: Optional[Path] = None,
        *,
        user: Optional[str] = None,
        server: Optional[str] = None,
        token: Optional[TokenSource] = None,
        transport: Optional[Transport] = None,
        mode: Optional[str] = None,
        client_id: Optional[str] = None,
        device: Optional[str] = None,
        rematerialise: Optional[bool] = None,
        page_limit: Optional[int] = None,
        transfers: Optional[int] = None,
        cache_size: Optional[int] = None,
        interval_ms: Optional[int] = None,
        live: Optional[bool] = None,
        live_interval_ms: Optional[int] = None,
        insecure_http: bool = False,
        test: Optional[Mapping[str, Any]] = None,
    ) -> Client:
        """Opens the replica in a directory, or creates it; without one, a replica in memory.

        `token` is a bearer token or a function that returns one; it gets `True` if the server has just
        rejected the previous one. `transport` answers calls instead of the server or, with `server` and
        `token`, stands before it; it is called on other threads.
        """
        options = dict(
            user=user, server=server, mode=mode, client_id=client_id, device=device,
            rematerialise=rematerialise, page_limit=page_limit, transfers=transfers, cache_size=cache_size,
            interval_ms=interval_ms, live=live, live_interval_ms=live_interval_ms,
            insecure_http=insecure_http or None, test=test,
        )
        return cls(_wait(opening(directory, token, transport, options)))

    def _write(self, call: str, **arguments: Any) -> Any:
        return json.loads(_wait(self._native.write(json.dumps({"call": call, **arguments}))))

    def _run(self, call: str, **arguments: Any) -> Any:
        return json.loads(_wait(self._native.run(json.dumps({"call": call, **arguments}))))

    def _edit(self, edit: str, **arguments: Any) -> Any:
        return (self._write("edit", edits=[{"edit": edit, **arguments}]))[0]

    def _subscribe(self, kind: Any, stream: str, **arguments: Any) -> Subscription:
        text = json.dumps({"stream": stream, **arguments})
        return Subscription(checked(self._native.subscribe, text), kind)

    def create(
        self,
        type: str,
        name: str,
        *,
        parent: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        id: Optional[str] = None,
    ) -> str:
        """Creates an item of any type; returns its id."""
        return (self._write("edit", edits=[create_edit(type, name, parent, metadata, id)]))[0]

    def create_folder(self, name: str, *, parent: Optional[str] = None) -> str:
        """Creates a folder; each call makes a new one: see `get_or_create_folder`."""
        return self.create("folder", name, parent=parent)

    def create_file(self, name: str, *, parent: Optional[str] = None) -> str:
        """Creates a file without content; returns its id."""
        return self.create("file", name, parent=parent)

    def get_or_create_folder(self, name: str, *, parent: Optional[str] = None) -> str:
        """Returns the folder of this name, and creates it if it is not there. Devices that create it
        offline make one folder."""
        return self._write("getOrCreateFolder", parent=parent, name=name)

    def rename(self, item: str, name: str) -> None:
        """Changes the name of an item."""
        self._edit("rename", item=item, name=name)

    def move(self, item: str, parent: Optional[str]) -> None:
        """Moves an item into a container of the same owner; `None` is the top."""
        self._edit("move", item=item, parent=parent)

    def link(self, item: str, parent: str) -> None:
        """Links an item under one more container."""
        self._edit("link", item=item, parent=parent)

    def unlink(self, item: str, parent: str) -> None:
        """Removes an item from a container."""
        self._edit("unlink", item=item, parent=parent)

    def delete(self, item: str, *, recursive: bool = False) -> int:
        """Deletes an item; returns the number of deleted items."""
        return self._edit("delete", item=item, recursive=recursive)

    def set_metadata(self, item: str, metadata: Mapping[str, Any]) -> None:
        """Sets metadata keys of an item; `None` removes a key."""
        self._edit("setMetadata", item=item, metadata=dict(metadata))

    def share(self, item: str, principal: Mapping[str, str], level: str) -> None:
        """Grants a principal, such as `{"kind": "user", "id": "bob"}`, a level on an item."""
        self._edit("share", item=item, principal=dict(principal), level=level)

    def unshare(self, item: str, principal: Mapping[str, str]) -> None:
        """Removes a principal's grant on an item."""
        self._edit("unshare", item=item, principal=dict(principal))

    def transaction(self, make: Callable[[Batch], Any]) -> Any:
        """Makes the edits that `make` adds to a batch in one transaction; returns its result."""
        batch = Batch(self.new_item_id)
        result = make(batch)
        self._write("edit", edits=batch.edits)
        return result

    def put(self, item: str, data: bytes, *, modified_at: Optional[str] = None) -> StoredContent:
        """Stores a content for an item, durably; the next sync uploads it."""
        operation = checked(self._native.put, _put_options(item, modified_at), bytes(data))
        return decode(StoredContent, json.loads(_wait(operation)))

    def put_file(self, item: str, path: Path) -> StoredContent:
        """Stores the content of a file, with the file's modification time."""
        text = checked(_native.path_text, path)
        return decode(StoredContent, self._write("putFile", item=item, path=text))

    def writer(self, item: str, *, modified_at: Optional[str] = None) -> ContentWriter:
        """Opens a writer of a content for an item."""
        return ContentWriter(checked(self._native.writer, _put_options(item, modified_at)))

    def read(self, item: str, *, version: Optional[str] = None) -> Content:
        """Opens the content of an item; one that is not on this machine is downloaded first."""
        return Content(_wait(self._native.reader(item, version)))

    def sync(self) -> SyncReport:
        """Pushes the queue, pulls until settled, and uploads queued contents."""
        return decode(SyncReport, self._run("sync"))

    def flush(self) -> SyncReport:
        """Pushes only the queue."""
        return decode(SyncReport, self._run("flush"))

    def pull(self) -> SyncReport:
        """Pulls until settled."""
        return decode(SyncReport, self._run("pull"))

    def rematerialise(self) -> SyncReport:
        """Rebuilds the replica from the server's state; the queue stays."""
        return decode(SyncReport, self._run("rematerialise"))

    def start_background(self) -> None:
        """Starts synchronising in the background."""
        self._run("startBackground")

    def stop_background(self) -> None:
        """Stops background work and waits until it has ended."""
        self._run("stopBackground")

    def hydrate_state(self, state: str) -> Mapping[str, int]:
        """Imports an exported state into a client that is pristine and has the same client id."""
        return self._write("hydrateState", state=state)

    def retry(self, op_id: str) -> str:
        """Queues a rejected operation again; returns its new id."""
        return self._write("retry", opId=op_id)

    def discard(self, op_id: str) -> None:
        """Removes a rejected operation for good."""
        self._write("discard", opId=op_id)

    def find(
        self,
        *,
        name: Optional[str] = None,
        name_prefix: Optional[str] = None,
        type: Optional[str] = None,
        owner: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        modified_since: Optional[str] = None,
        sort_by: str = "name",
        descending: bool = False,
        after: Optional[Mapping[str, Any]] = None,
        limit: int = 0,
    ) -> Found:
        """Returns a page of the items that a query finds; `metadata` is `{"key": …, "value": …}`."""
        query = dict(
            name=name, name_prefix=name_prefix, type=type, owner=owner, metadata=metadata,
            modified_since=modified_since, sort_by=sort_by, descending=descending, after=after, limit=limit,
        )
        return decode(Found, self._run("find", query=query_form(query)))

    def watch(self, **query: Any) -> Subscription:
        """Returns the first result of a query, all of it added, and each difference after it. The
        arguments are those of `find`."""
        return self._subscribe(ResultChange, "query", query=query_form(query))

    def changes(self) -> Subscription:
        """Returns the changes of the tree from now on, each with the item before and after."""
        return self._subscribe(TreeChange, "changes")

    def events(self) -> Subscription:
        """Returns the events of synchronisation from now on."""
        return self._subscribe(Any, "events")

    def sync_states(self) -> Subscription:
        """Returns the state of synchronisation, at first and after each change."""
        return self._subscribe(SyncState, "syncState")

    def close(self) -> None:
        """Ends calls and streams, finishes edits and background work, and releases the replica."""
        _wait(self._native.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _put_options(item: str, modified_at: Optional[str]) -> str:
    options = {"item": item} if modified_at is None else {"item": item, "modifiedAt": modified_at}
    return json.dumps(options)

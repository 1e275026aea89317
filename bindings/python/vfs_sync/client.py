"""The blocking client."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Callable, Generic, Iterator, Mapping, Optional, TypeVar

from . import _native
from ._base import (
    Batch,
    Path,
    PrincipalLike,
    Reads,
    Time,
    TokenSource,
    Transport,
    batch_of,
    bytes_of,
    create_edit,
    encode,
    metadata_form,
    opening,
    parsed,
    principal_form,
    put_form,
    query_form,
    time_form,
)
from .errors import checked, converted
from .values import (
    Child,
    Found,
    Node,
    Progress,
    ResultChange,
    StoredContent,
    SyncEvent,
    SyncReport,
    SyncState,
    Trashed,
    TreeChange,
    Version,
    decode,
)

T = TypeVar("T")

CHUNK = 256 * 1024


def _wait(operation: _native.Operation) -> Any:
    try:
        return operation.wait()
    except _native.NativeError as error:
        raise converted(error) from None


class Subscription(Iterator[T], Generic[T]):
    """A stream of values, for `for`. It ends when it is closed, or with the client."""

    def __init__(self, native: _native.NativeSubscription, kind: Any) -> None:
        self._native = native
        self._kind = kind

    def __iter__(self) -> Subscription[T]:
        return self

    def __next__(self) -> T:
        text = _wait(self._native.next())
        if text is None:
            raise StopIteration
        return decode(self._kind, parsed(text))

    def close(self) -> None:
        """Ends the stream."""
        self._native.close()

    def __enter__(self) -> Subscription[T]:
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
        chunk = checked(self._native.take, CHUNK)
        if not chunk:
            raise StopIteration
        return chunk

    def read(self) -> bytes:
        """Reads the rest of the bytes."""
        return checked(self._native.take)


class ContentWriter:
    """A content that is being written; it is queued when its block ends without an exception."""

    def __init__(self, native: _native.NativeWriter) -> None:
        self._native = native
        self._open = True

    def write(self, data: bytes) -> None:
        """Writes the next bytes."""
        _wait(self._native.write(bytes_of(data)))

    def finish(self) -> StoredContent:
        """Queues the content: from then on it is durable, and shown."""
        self._open = False
        return decode(StoredContent, parsed(_wait(self._native.finish())))

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
        return parsed(_wait(self._native.write(encode({"call": call, **arguments}))))

    def _run(self, call: str, **arguments: Any) -> Any:
        return parsed(_wait(self._native.run(encode({"call": call, **arguments}))))

    def _edit(self, edit: str, **arguments: Any) -> Any:
        return (self._write("edit", edits=[{"edit": edit, **arguments}]))[0]

    def _subscribe(self, kind: Any, stream: str, **arguments: Any) -> Subscription[Any]:
        text = encode({"stream": stream, **arguments})
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

    def create_folder(
        self, name: str, *, parent: Optional[str] = None, metadata: Optional[Mapping[str, Any]] = None
    ) -> str:
        """Creates a folder; each call makes a new one: see `get_or_create_folder`."""
        return self.create("folder", name, parent=parent, metadata=metadata)

    def create_file(
        self, name: str, *, parent: Optional[str] = None, metadata: Optional[Mapping[str, Any]] = None
    ) -> str:
        """Creates a file without content; returns its id."""
        return self.create("file", name, parent=parent, metadata=metadata)

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
        """Deletes an item, with everything under it if `recursive`; returns the number of deleted items."""
        return self._edit("delete", item=item, recursive=recursive)

    def set_metadata(self, item: str, metadata: Mapping[str, Any]) -> None:
        """Sets metadata keys of an item; `None` removes a key."""
        self._edit("setMetadata", item=item, metadata=metadata_form(metadata))

    def touch(self, item: str, modified_at: Time) -> None:
        """Makes an item show a modification time for as long as it keeps its present content."""
        self._edit("touch", item=item, modifiedAt=time_form(modified_at))

    def copy(self, item: str, name: str, *, parent: Optional[str] = None) -> str:
        """Copies an item with everything under it; returns the copy's id. Contents must be on this machine."""
        return self._write("copy", item=item, name=name, parent=parent)

    def move_by_copy(self, item: str, name: str, *, parent: Optional[str] = None) -> str:
        """Moves an item into another owner's tree, by a copy and a deletion; returns the copy's id."""
        return self._write("moveByCopy", item=item, name=name, parent=parent)

    def share(self, item: str, principal: PrincipalLike, level: str) -> None:
        """Grants a principal, such as `{"kind": "user", "id": "bob"}`, a level on an item: `read`, `write` or
        `admin`."""
        self._edit("share", item=item, principal=principal_form(principal), level=level)

    def unshare(self, item: str, principal: PrincipalLike) -> None:
        """Removes a principal's grant on an item."""
        self._edit("unshare", item=item, principal=principal_form(principal))

    def decline(self, item: str) -> None:
        """Removes the grant that names this user."""
        self._write("decline", item=item)

    def transaction(self, make: Callable[[Batch], T]) -> T:
        """Makes the edits that `make` adds to a batch in one transaction, all of them or none; returns its
        result. `make` is not asynchronous."""
        result, edits = batch_of(make, self.new_item_id)
        self._write("edit", edits=edits)
        return result

    def put(self, item: str, data: bytes, *, modified_at: Optional[Time] = None) -> StoredContent:
        """Stores a content for an item, durably; the next sync uploads it."""
        operation = checked(self._native.put, put_form(item, modified_at), bytes_of(data))
        return decode(StoredContent, parsed(_wait(operation)))

    def put_file(self, item: str, path: Path) -> StoredContent:
        """Stores the content of a file, with the file's modification time."""
        text = checked(_native.path_text, path)
        return decode(StoredContent, self._write("putFile", item=item, path=text))

    def writer(self, item: str, *, modified_at: Optional[Time] = None) -> ContentWriter:
        """Opens a writer of a content for an item."""
        return ContentWriter(checked(self._native.writer, put_form(item, modified_at)))

    def read(self, item: str, *, version: Optional[str] = None) -> Content:
        """Opens the content of an item; one that is not on this machine is downloaded first. `version` is the
        `blob_id` of an earlier one."""
        return Content(_wait(self._native.reader(item, version)))

    def fetch(self, items: list[str]) -> int:
        """Downloads the contents of items that are not on this machine; returns their number."""
        return self._run("fetch", items=items)["downloaded"]

    def versions(self, item: str) -> list[Version]:
        """Lists the present and earlier contents of a file that the server keeps, the newest first."""
        return decode(list[Version], self._run("versions", item=item))

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

    def server_state(self) -> Mapping[str, Any]:
        """Asks for the server's state of this client, as on the wire."""
        return self._run("serverState")

    def start_background(self) -> None:
        """Starts synchronising in the background; it clears the reason of an earlier stop."""
        self._run("startBackground")

    def stop_background(self) -> None:
        """Stops background work and waits until it has ended."""
        self._run("stopBackground")

    def request_sync(self) -> None:
        """Requests a sync soon. It has no effect without background work."""
        self._run("requestSync")

    def hydrate_state(self, state: str) -> Mapping[str, int]:
        """Imports an exported state into a client that is pristine and has the same client id."""
        return self._write("hydrateState", state=state)

    def retry(self, op_id: str) -> str:
        """Queues a rejected operation again; returns its new id."""
        return self._write("retry", opId=op_id)

    def discard(self, op_id: str) -> None:
        """Removes a rejected operation for good."""
        self._write("discard", opId=op_id)

    def retry_upload(self, blob_id: str) -> None:
        """Uploads a rejected content again."""
        self._write("retryUpload", blobId=blob_id)

    def discard_upload(self, blob_id: str) -> None:
        """Removes a rejected content and its bytes for good."""
        self._write("discardUpload", blobId=blob_id)

    def grant_again(self) -> list[Mapping[str, Any]]:
        """Grants lost grants again, where this user may; returns the `item` and `principal` of each."""
        return self._write("grantAgain")

    def discard_lost(self, numbers: list[int]) -> None:
        """Removes changes from the list of lost ones."""
        self._write("discardLost", numbers=numbers)

    def trash(self) -> list[Trashed]:
        """Lists the items that can be restored, including deletions that are still queued."""
        return decode(list[Trashed], self._run("trash"))

    def restore(self, item: str, *, recursive: bool = True) -> int:
        """Brings a deleted item back; returns the number of restored items."""
        return self._run("restore", item=item, recursive=recursive)

    def purge(self, item: str, *, recursive: bool = True) -> int:
        """Removes a deleted item for good; returns the number of purged items."""
        return self._run("purge", item=item, recursive=recursive)

    def empty_trash(self) -> Mapping[str, int]:
        """Removes all deleted items of this user for good; returns the numbers `purged` and `ofOthers`."""
        return self._run("emptyTrash")

    def find(
        self,
        *,
        name: Optional[str] = None,
        name_prefix: Optional[str] = None,
        type: Optional[str] = None,
        owner: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        modified_since: Optional[Time] = None,
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

    def find_all(self, **query: Any) -> Iterator[Node]:
        """Returns all items that a query finds, page by page. The arguments are those of `find`."""
        found = self.find(**query)
        while True:
            yield from found.items
            if found.next is None:
                return
            found = self.find(**{**query, "after": found.next})

    def watch(self, **query: Any) -> Subscription[ResultChange]:
        """Returns the first result of a query, all of it added, and each difference after it. The
        arguments are those of `find`."""
        return self._subscribe(ResultChange, "query", query=query_form(query))

    def watch_children(self, parent: Optional[str] = None) -> Subscription[list[Child]]:
        """Returns the children of a container, at first and after each change of them."""
        return self._subscribe(list[Child], "children", parent=parent)

    def changes(self) -> Subscription[TreeChange]:
        """Returns the changes of the tree from now on, each with the item before and after."""
        return self._subscribe(TreeChange, "changes")

    def events(self) -> Subscription[SyncEvent]:
        """Returns the events of synchronisation from now on: rejected edits, conflicts, pauses, stops."""
        return self._subscribe(SyncEvent, "events")

    def sync_states(self) -> Subscription[SyncState]:
        """Returns the state of synchronisation, at first and after each change."""
        return self._subscribe(SyncState, "syncState")

    def progress(self) -> Subscription[Progress]:
        """Returns the progress of syncs and downloads from now on."""
        return self._subscribe(Progress, "progress")

    def close(self) -> None:
        """Ends calls and streams, finishes edits and background work, and releases the replica."""
        _wait(self._native.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

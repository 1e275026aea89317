"""The client for asyncio. Reads are local, and as in the blocking client."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AbstractAsyncContextManager
from typing import Any, AsyncIterator, Awaitable, Callable, Generic, Mapping, Optional, TypeVar, Union

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

AsyncTokenSource = Union[TokenSource, Callable[[bool], Awaitable[str]]]


def _begun(operation: _native.Operation) -> asyncio.Future[Any]:
    """Returns the future of a call's result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Optional[BaseException]) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(converted(error))

    operation.then(lambda result, error: loop.call_soon_threadsafe(settle, result, error))
    return future


async def _wait(operation: _native.Operation) -> Any:
    try:
        return await _begun(operation)
    except asyncio.CancelledError:
        operation.cancel()
        raise


def _tokens(token: Optional[AsyncTokenSource]) -> Optional[TokenSource]:
    """Returns tokens that a coroutine may give as those of a function that other threads call."""
    if token is None or not callable(token):
        return token
    loop = asyncio.get_running_loop()

    async def awaited(given: Awaitable[str]) -> str:
        return await given

    def source(refresh: bool) -> str:
        given = token(refresh)
        if not inspect.isawaitable(given):
            return given
        waiting = awaited(given)
        try:
            return asyncio.run_coroutine_threadsafe(waiting, loop).result()
        except BaseException:
            waiting.close()
            if inspect.iscoroutine(given):
                given.close()
            raise

    return source


class AsyncSubscription(AsyncIterator[T], Generic[T]):
    """A stream of values, for `async for`. It ends when it is closed, or with the client. No value is lost
    if a task that waits for it is cancelled, as by `asyncio.wait_for`: the next one gets it."""

    def __init__(self, native: _native.NativeSubscription, kind: Any) -> None:
        self._native = native
        self._kind = kind
        self._turn = asyncio.Lock()
        self._next: Optional[tuple[_native.Operation, asyncio.Future[Any]]] = None

    def __aiter__(self) -> AsyncSubscription[T]:
        return self

    async def __anext__(self) -> T:
        async with self._turn:
            if self._next is None:
                operation = self._native.next()
                self._next = operation, _begun(operation)
            waiting = self._next[1]
            await asyncio.wait([waiting])
            self._next = None
            text = waiting.result()
        if text is None:
            raise StopAsyncIteration
        return decode(self._kind, parsed(text))

    def close(self) -> None:
        """Ends the stream."""
        self._native.close()

    async def __aenter__(self) -> AsyncSubscription[T]:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class AsyncContent(AsyncIterator[bytes]):
    """A content of an item, read once: as chunks, or as a whole."""

    def __init__(self, native: _native.NativeReader) -> None:
        self._native = native
        self.size: int = native.size
        self.digest: str = native.digest

    def __aiter__(self) -> AsyncContent:
        return self

    async def __anext__(self) -> bytes:
        chunk: bytes = await _wait(self._native.read(CHUNK))
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self) -> bytes:
        """Reads the rest of the bytes."""
        rest: bytes = await _wait(self._native.read_rest())
        return rest


class AsyncContentWriter:
    """A content that is being written; it is queued when its block ends without an exception."""

    def __init__(self, native: _native.NativeWriter) -> None:
        self._native = native
        self._open = True

    async def write(self, data: bytes) -> None:
        """Writes the next bytes."""
        await _wait(self._native.write(bytes_of(data)))

    async def finish(self) -> StoredContent:
        """Queues the content: from then on it is durable, and shown."""
        self._open = False
        return decode(StoredContent, parsed(await _wait(self._native.finish())))

    def abort(self) -> None:
        """Gives the content up."""
        self._open = False
        self._native.abort()

    async def __aenter__(self) -> AsyncContentWriter:
        return self

    async def __aexit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            await self.finish()


class AsyncClient(Reads, AbstractAsyncContextManager["AsyncClient"]):
    """A client: a durable replica of a user's tree, and the connection to its server.

    Reads are local and immediate. Edits are durable, and visible, when they return, online or not.
    `sync`, or background work, exchanges them with the user's other devices.
    """

    def __init__(self, native: _native.NativeClient) -> None:
        """Use `open`."""
        self._native = native

    @classmethod
    async def open(
        cls,
        directory: Optional[Path] = None,
        *,
        user: Optional[str] = None,
        server: Optional[str] = None,
        token: Optional[AsyncTokenSource] = None,
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
    ) -> AsyncClient:
        """Opens the replica in a directory, or creates it; without one, a replica in memory.

        `token` is a bearer token, or a function or coroutine function that returns one; it gets `True` if the server has just
        rejected the previous one. `transport` answers calls instead of the server or, with `server` and
        `token`, stands before it; it is called on other threads.
        """
        options = dict(
            user=user, server=server, mode=mode, client_id=client_id, device=device,
            rematerialise=rematerialise, page_limit=page_limit, transfers=transfers, cache_size=cache_size,
            interval_ms=interval_ms, live=live, live_interval_ms=live_interval_ms,
            insecure_http=insecure_http or None, test=test,
        )
        return cls(await _wait(opening(directory, _tokens(token), transport, options)))

    async def _write(self, call: str, **arguments: Any) -> Any:
        return parsed(await _wait(self._native.write(encode({"call": call, **arguments}))))

    async def _run(self, call: str, **arguments: Any) -> Any:
        return parsed(await _wait(self._native.run(encode({"call": call, **arguments}))))

    async def _edit(self, edit: str, **arguments: Any) -> Any:
        return (await self._write("edit", edits=[{"edit": edit, **arguments}]))[0]

    def _subscribe(self, kind: Any, stream: str, **arguments: Any) -> AsyncSubscription[Any]:
        text = encode({"stream": stream, **arguments})
        return AsyncSubscription(checked(self._native.subscribe, text), kind)

    async def create(
        self,
        type: str,
        name: str,
        *,
        parent: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        id: Optional[str] = None,
    ) -> str:
        """Creates an item of any type; returns its id."""
        return (await self._write("edit", edits=[create_edit(type, name, parent, metadata, id)]))[0]

    async def create_folder(
        self, name: str, *, parent: Optional[str] = None, metadata: Optional[Mapping[str, Any]] = None
    ) -> str:
        """Creates a folder; each call makes a new one: see `get_or_create_folder`."""
        return await self.create("folder", name, parent=parent, metadata=metadata)

    async def create_file(
        self, name: str, *, parent: Optional[str] = None, metadata: Optional[Mapping[str, Any]] = None
    ) -> str:
        """Creates a file without content; returns its id."""
        return await self.create("file", name, parent=parent, metadata=metadata)

    async def get_or_create_folder(self, name: str, *, parent: Optional[str] = None) -> str:
        """Returns the folder of this name, and creates it if it is not there. Devices that create it
        offline make one folder."""
        return await self._write("getOrCreateFolder", parent=parent, name=name)

    async def rename(self, item: str, name: str) -> None:
        """Changes the name of an item."""
        await self._edit("rename", item=item, name=name)

    async def move(self, item: str, parent: Optional[str]) -> None:
        """Moves an item into a container of the same owner; `None` is the top."""
        await self._edit("move", item=item, parent=parent)

    async def link(self, item: str, parent: str) -> None:
        """Links an item under one more container."""
        await self._edit("link", item=item, parent=parent)

    async def unlink(self, item: str, parent: str) -> None:
        """Removes an item from a container."""
        await self._edit("unlink", item=item, parent=parent)

    async def delete(self, item: str, *, recursive: bool = False) -> int:
        """Deletes an item, with everything under it if `recursive`; returns the number of deleted items."""
        return await self._edit("delete", item=item, recursive=recursive)

    async def set_metadata(self, item: str, metadata: Mapping[str, Any]) -> None:
        """Sets metadata keys of an item; `None` removes a key."""
        await self._edit("setMetadata", item=item, metadata=metadata_form(metadata))

    async def touch(self, item: str, modified_at: Time) -> None:
        """Makes an item show a modification time for as long as it keeps its present content."""
        await self._edit("touch", item=item, modifiedAt=time_form(modified_at))

    async def copy(self, item: str, name: str, *, parent: Optional[str] = None) -> str:
        """Copies an item with everything under it; returns the copy's id. Contents must be on this machine."""
        return await self._write("copy", item=item, name=name, parent=parent)

    async def move_by_copy(self, item: str, name: str, *, parent: Optional[str] = None) -> str:
        """Moves an item into another owner's tree, by a copy and a deletion; returns the copy's id."""
        return await self._write("moveByCopy", item=item, name=name, parent=parent)

    async def share(self, item: str, principal: PrincipalLike, level: str) -> None:
        """Grants a principal, such as `{"kind": "user", "id": "bob"}`, a level on an item: `read`, `write` or
        `admin`."""
        await self._edit("share", item=item, principal=principal_form(principal), level=level)

    async def unshare(self, item: str, principal: PrincipalLike) -> None:
        """Removes a principal's grant on an item."""
        await self._edit("unshare", item=item, principal=principal_form(principal))

    async def decline(self, item: str) -> None:
        """Removes the grant that names this user."""
        await self._write("decline", item=item)

    async def transaction(self, make: Callable[[Batch], T]) -> T:
        """Makes the edits that `make` adds to a batch in one transaction, all of them or none; returns its
        result. `make` is not asynchronous."""
        result, edits = batch_of(make, self.new_item_id)
        await self._write("edit", edits=edits)
        return result

    async def put(self, item: str, data: bytes, *, modified_at: Optional[Time] = None) -> StoredContent:
        """Stores a content for an item, durably; the next sync uploads it."""
        operation = checked(self._native.put, put_form(item, modified_at), bytes_of(data))
        return decode(StoredContent, parsed(await _wait(operation)))

    async def put_file(self, item: str, path: Path) -> StoredContent:
        """Stores the content of a file, with the file's modification time."""
        text = checked(_native.path_text, path)
        return decode(StoredContent, await self._write("putFile", item=item, path=text))

    def writer(self, item: str, *, modified_at: Optional[Time] = None) -> AsyncContentWriter:
        """Opens a writer of a content for an item."""
        return AsyncContentWriter(checked(self._native.writer, put_form(item, modified_at)))

    async def read(self, item: str, *, version: Optional[str] = None) -> AsyncContent:
        """Opens the content of an item; one that is not on this machine is downloaded first. `version` is the
        `blob_id` of an earlier one."""
        return AsyncContent(await _wait(self._native.reader(item, version)))

    async def fetch(self, items: list[str]) -> int:
        """Downloads the contents of items that are not on this machine; returns their number."""
        return (await self._run("fetch", items=items))["downloaded"]

    async def versions(self, item: str) -> list[Version]:
        """Lists the present and earlier contents of a file that the server keeps, the newest first."""
        return decode(list[Version], await self._run("versions", item=item))

    async def sync(self) -> SyncReport:
        """Pushes the queue, pulls until settled, and uploads queued contents."""
        return decode(SyncReport, await self._run("sync"))

    async def flush(self) -> SyncReport:
        """Pushes only the queue."""
        return decode(SyncReport, await self._run("flush"))

    async def pull(self) -> SyncReport:
        """Pulls until settled."""
        return decode(SyncReport, await self._run("pull"))

    async def rematerialise(self) -> SyncReport:
        """Rebuilds the replica from the server's state; the queue stays."""
        return decode(SyncReport, await self._run("rematerialise"))

    async def server_state(self) -> Mapping[str, Any]:
        """Asks for the server's state of this client, as on the wire."""
        return await self._run("serverState")

    async def start_background(self) -> None:
        """Starts synchronising in the background; it clears the reason of an earlier stop."""
        await self._run("startBackground")

    async def stop_background(self) -> None:
        """Stops background work and waits until it has ended."""
        await self._run("stopBackground")

    async def request_sync(self) -> None:
        """Requests a sync soon. It has no effect without background work."""
        await self._run("requestSync")

    async def hydrate_state(self, state: str) -> Mapping[str, int]:
        """Imports an exported state into a client that is pristine and has the same client id."""
        return await self._write("hydrateState", state=state)

    async def retry(self, op_id: str) -> str:
        """Queues a rejected operation again; returns its new id."""
        return await self._write("retry", opId=op_id)

    async def discard(self, op_id: str) -> None:
        """Removes a rejected operation for good."""
        await self._write("discard", opId=op_id)

    async def retry_upload(self, blob_id: str) -> None:
        """Uploads a rejected content again."""
        await self._write("retryUpload", blobId=blob_id)

    async def discard_upload(self, blob_id: str) -> None:
        """Removes a rejected content and its bytes for good."""
        await self._write("discardUpload", blobId=blob_id)

    async def grant_again(self) -> list[Mapping[str, Any]]:
        """Grants lost grants again, where this user may; returns the `item` and `principal` of each."""
        return await self._write("grantAgain")

    async def discard_lost(self, numbers: list[int]) -> None:
        """Removes changes from the list of lost ones."""
        await self._write("discardLost", numbers=numbers)

    async def trash(self) -> list[Trashed]:
        """Lists the items that can be restored, including deletions that are still queued."""
        return decode(list[Trashed], await self._run("trash"))

    async def restore(self, item: str, *, recursive: bool = True) -> int:
        """Brings a deleted item back; returns the number of restored items."""
        return await self._run("restore", item=item, recursive=recursive)

    async def purge(self, item: str, *, recursive: bool = True) -> int:
        """Removes a deleted item for good; returns the number of purged items."""
        return await self._run("purge", item=item, recursive=recursive)

    async def empty_trash(self) -> Mapping[str, int]:
        """Removes all deleted items of this user for good; returns the numbers `purged` and `ofOthers`."""
        return await self._run("emptyTrash")

    async def find(
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
        return decode(Found, await self._run("find", query=query_form(query)))

    async def find_all(self, **query: Any) -> AsyncIterator[Node]:
        """Returns all items that a query finds, page by page. The arguments are those of `find`."""
        found = await self.find(**query)
        while True:
            for item in found.items:
                yield item
            if found.next is None:
                return
            found = await self.find(**{**query, "after": found.next})

    def watch(self, **query: Any) -> AsyncSubscription[ResultChange]:
        """Returns the first result of a query, all of it added, and each difference after it. The
        arguments are those of `find`."""
        return self._subscribe(ResultChange, "query", query=query_form(query))

    def watch_children(self, parent: Optional[str] = None) -> AsyncSubscription[list[Child]]:
        """Returns the children of a container, at first and after each change of them."""
        return self._subscribe(list[Child], "children", parent=parent)

    def changes(self) -> AsyncSubscription[TreeChange]:
        """Returns the changes of the tree from now on, each with the item before and after."""
        return self._subscribe(TreeChange, "changes")

    def events(self) -> AsyncSubscription[SyncEvent]:
        """Returns the events of synchronisation from now on: rejected edits, conflicts, pauses, stops."""
        return self._subscribe(SyncEvent, "events")

    def sync_states(self) -> AsyncSubscription[SyncState]:
        """Returns the state of synchronisation, at first and after each change."""
        return self._subscribe(SyncState, "syncState")

    def progress(self) -> AsyncSubscription[Progress]:
        """Returns the progress of syncs and downloads from now on."""
        return self._subscribe(Progress, "progress")

    async def close(self) -> None:
        """Ends calls and streams, finishes edits and background work, and releases the replica. It goes on
        if its task is cancelled."""
        await _wait(self._native.close())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

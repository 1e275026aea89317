"""The client for asyncio. Reads are local, and as in the blocking client."""

from __future__ import annotations

import json
import asyncio
import inspect
from contextlib import AbstractAsyncContextManager
from typing import Any, AsyncIterator, Awaitable, Callable, Mapping, Union, Optional

from . import _native
from ._base import Batch, Path, Reads, TokenSource, Transport, create_edit, opening, query_form
from .errors import checked, converted
from .values import Found, ResultChange, StoredContent, SyncReport, SyncState, TreeChange, decode

CHUNK = 256 * 1024


AsyncTokenSource = Union[TokenSource, Callable[[bool], Awaitable[str]]]


async def _wait(operation: _native.Operation) -> Any:
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
    try:
        return await future
    except asyncio.CancelledError:
        operation.cancel()
        raise


def _tokens(token: Optional[AsyncTokenSource]) -> Optional[TokenSource]:
    """Returns tokens of a coroutine function as those of a function that other threads may call."""
    if token is None or isinstance(token, str) or not inspect.iscoroutinefunction(token):
        return token  # type: ignore[return-value]
    loop = asyncio.get_running_loop()
    return lambda refresh: asyncio.run_coroutine_threadsafe(token(refresh), loop).result()

class AsyncSubscription(AsyncIterator[Any]):
    """A stream of values, for `async for`. It ends when it is closed, or with the client."""

    def __init__(self, native: _native.NativeSubscription, kind: Any) -> None:
        self._native = native
        self._kind = kind

    def __aiter__(self) -> AsyncSubscription:
        return self

    async def __anext__(self) -> Any:
        text = await _wait(self._native.next())
        if text is None:
            raise StopAsyncIteration
        return decode(self._kind, json.loads(text))

    def close(self) -> None:
        """Ends the stream."""
        self._native.close()

    async def __aenter__(self) -> AsyncSubscription:
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
        return b"".join([chunk async for chunk in self])


class AsyncContentWriter:
    """A content that is being written; it is queued when its block ends without an exception."""

    def __init__(self, native: _native.NativeWriter) -> None:
        self._native = native
        self._open = True

    async def write(self, data: bytes) -> None:
        """Writes the next bytes."""
        await _wait(self._native.write(bytes(data)))

    async def finish(self) -> StoredContent:
        """Queues the content: from then on it is durable, and shown."""
        self._open = False
        return decode(StoredContent, json.loads(await _wait(self._native.finish())))

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
        return cls(await _wait(opening(directory, _tokens(token), transport, options)))

    async def _write(self, call: str, **arguments: Any) -> Any:
        return json.loads(await _wait(self._native.write(json.dumps({"call": call, **arguments}))))

    async def _run(self, call: str, **arguments: Any) -> Any:
        return json.loads(await _wait(self._native.run(json.dumps({"call": call, **arguments}))))

    async def _edit(self, edit: str, **arguments: Any) -> Any:
        return (await self._write("edit", edits=[{"edit": edit, **arguments}]))[0]

    def _subscribe(self, kind: Any, stream: str, **arguments: Any) -> AsyncSubscription:
        text = json.dumps({"stream": stream, **arguments})
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

    async def create_folder(self, name: str, *, parent: Optional[str] = None) -> str:
        """Creates a folder; each call makes a new one: see `get_or_create_folder`."""
        return await self.create("folder", name, parent=parent)

    async def create_file(self, name: str, *, parent: Optional[str] = None) -> str:
        """Creates a file without content; returns its id."""
        return await self.create("file", name, parent=parent)

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
        """Deletes an item; returns the number of deleted items."""
        return await self._edit("delete", item=item, recursive=recursive)

    async def set_metadata(self, item: str, metadata: Mapping[str, Any]) -> None:
        """Sets metadata keys of an item; `None` removes a key."""
        await self._edit("setMetadata", item=item, metadata=dict(metadata))

    async def share(self, item: str, principal: Mapping[str, str], level: str) -> None:
        """Grants a principal, such as `{"kind": "user", "id": "bob"}`, a level on an item."""
        await self._edit("share", item=item, principal=dict(principal), level=level)

    async def unshare(self, item: str, principal: Mapping[str, str]) -> None:
        """Removes a principal's grant on an item."""
        await self._edit("unshare", item=item, principal=dict(principal))

    async def transaction(self, make: Callable[[Batch], Any]) -> Any:
        """Makes the edits that `make` adds to a batch in one transaction; returns its result."""
        batch = Batch(self.new_item_id)
        result = make(batch)
        await self._write("edit", edits=batch.edits)
        return result

    async def put(self, item: str, data: bytes, *, modified_at: Optional[str] = None) -> StoredContent:
        """Stores a content for an item, durably; the next sync uploads it."""
        operation = checked(self._native.put, _put_options(item, modified_at), bytes(data))
        return decode(StoredContent, json.loads(await _wait(operation)))

    async def put_file(self, item: str, path: Path) -> StoredContent:
        """Stores the content of a file, with the file's modification time."""
        text = checked(_native.path_text, path)
        return decode(StoredContent, await self._write("putFile", item=item, path=text))

    def writer(self, item: str, *, modified_at: Optional[str] = None) -> AsyncContentWriter:
        """Opens a writer of a content for an item."""
        return AsyncContentWriter(checked(self._native.writer, _put_options(item, modified_at)))

    async def read(self, item: str, *, version: Optional[str] = None) -> AsyncContent:
        """Opens the content of an item; one that is not on this machine is downloaded first."""
        return AsyncContent(await _wait(self._native.reader(item, version)))

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

    async def start_background(self) -> None:
        """Starts synchronising in the background."""
        await self._run("startBackground")

    async def stop_background(self) -> None:
        """Stops background work and waits until it has ended."""
        await self._run("stopBackground")

    async def hydrate_state(self, state: str) -> Mapping[str, int]:
        """Imports an exported state into a client that is pristine and has the same client id."""
        return await self._write("hydrateState", state=state)

    async def retry(self, op_id: str) -> str:
        """Queues a rejected operation again; returns its new id."""
        return await self._write("retry", opId=op_id)

    async def discard(self, op_id: str) -> None:
        """Removes a rejected operation for good."""
        await self._write("discard", opId=op_id)

    async def find(
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
        return decode(Found, await self._run("find", query=query_form(query)))

    def watch(self, **query: Any) -> AsyncSubscription:
        """Returns the first result of a query, all of it added, and each difference after it. The
        arguments are those of `find`."""
        return self._subscribe(ResultChange, "query", query=query_form(query))

    def changes(self) -> AsyncSubscription:
        """Returns the changes of the tree from now on, each with the item before and after."""
        return self._subscribe(TreeChange, "changes")

    def events(self) -> AsyncSubscription:
        """Returns the events of synchronisation from now on."""
        return self._subscribe(Any, "events")

    def sync_states(self) -> AsyncSubscription:
        """Returns the state of synchronisation, at first and after each change."""
        return self._subscribe(SyncState, "syncState")

    async def close(self) -> None:
        """Ends calls and streams, finishes edits and background work, and releases the replica."""
        await _wait(self._native.close())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


def _put_options(item: str, modified_at: Optional[str]) -> str:
    options = {"item": item} if modified_at is None else {"item": item, "modifiedAt": modified_at}
    return json.dumps(options)

"""The calls of src/measure.rs in Python: it reads their names, and writes the nanoseconds of each."""

import dataclasses
import json
import os
import sys
import threading
import time
from typing import Any, Callable

from vfs_sync import Child, Client, Found, Node, Status, TreeEntry
from vfs_sync.values import decode

directory = sys.argv[1]
items, content = map(int, sys.argv[2:])
now = time.perf_counter_ns


def no_server(call: Any) -> Any:
    raise OSError("there is no server")


client = Client.open(directory, mode="open", transport=no_server)
middle = items // 200 * 100
folder, file = f"item-{middle:012}", f"item-{middle + 7:012}"
path = client.path_of(file)
data = b"\7" * content
notes: dict[str, Any] = dict(type="note", sort_by="modifiedAt", descending=True, limit=100)


def timed(calls: int, call: Callable[[], Any]) -> list[float]:
    begun = now()
    for _ in range(calls):
        call()
    return [(now() - begun) / calls]


def made(calls: int, kind: Any, result: Any) -> list[float]:
    """Measures what it takes to make the result of a call, of which there is JSON."""
    if isinstance(result, list):
        value: Any = [dataclasses.asdict(one) for one in result]
    else:
        value = dataclasses.asdict(result)
    text = json.dumps(value, separators=(",", ":"))
    parse = json.JSONDecoder().raw_decode
    return timed(calls, lambda: decode(kind, parse(text)[0]))


note = ""
edits = 0


def watched() -> list[float]:
    global note, edits
    note = note or client.find(**notes).items[0].id
    edits += 1
    begun = now()
    with client.watch(**notes) as watch:
        next(watch)
        first = now() - begun
        edited: list[int] = []

        def edit() -> None:
            client.rename(note, f"renamed-{os.getpid()}-{edits}")
            edited.append(now())

        thread = threading.Thread(target=edit)
        begun = now()
        thread.start()
        next(watch)
        changed = now()
        thread.join()
    return [first, edited[0] - begun, max(0, changed - edited[0])]


calls: dict[str, Callable[[], list[float]]] = {
    "node": lambda: timed(2_000, lambda: client.node(file)),
    "made: node": lambda: made(2_000, Node, client.node(file)),
    "parentsOf": lambda: timed(2_000, lambda: client.parents_of(file)),
    "status": lambda: timed(2_000, client.status),
    "made: status": lambda: made(2_000, Status, client.status()),
    "pathOf": lambda: timed(10, lambda: client.path_of(file)),
    "resolve": lambda: timed(10, lambda: client.resolve(path)),
    "children": lambda: timed(20, lambda: client.children(folder)),
    "made: children": lambda: made(20, list[Child], client.children(folder)),
    "walk": lambda: timed(1, lambda: client.walk(limit=10_000)),
    "made: walk": lambda: made(1, list[TreeEntry], client.walk(limit=10_000)),
    "find": lambda: timed(2, lambda: client.find(limit=1_000)),
    "made: find": lambda: made(2, Found, client.find(limit=1_000)),
    "put": lambda: timed(1, lambda: client.put(file, data)),
    "read": lambda: timed(1, lambda: client.read(file).read()),
    "query by name": lambda: timed(5, lambda: client.find(name_prefix="name-0000", limit=100)),
    "query by type and time": lambda: timed(5, lambda: client.find(**notes)),
    "watch": watched,
}
for line in sys.stdin:
    print(json.dumps(calls[line.strip()]()), flush=True)
client.close()

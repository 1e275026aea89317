"""A transport that answers from a script, and as a minimal server otherwise."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from typing import Any

from vfs_sync import TransportAnswer, TransportCall


def results(call: TransportCall, status: str, fields: dict[str, Any]) -> dict[str, Any]:
    each = [{"opId": one["opId"], "status": status, **fields} for one in call.body["operations"]]
    return {"clientId": call.body["clientId"], "results": each}


class Scripted:
    def __init__(self) -> None:
        self._next: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._lock = threading.Lock()

    def on(self, kind: str, **answer: Any) -> None:
        with self._lock:
            self._next[kind].append(answer)

    def __call__(self, call: TransportCall) -> TransportAnswer:
        with self._lock:
            answer = self._next[call.kind].popleft() if self._next[call.kind] else None
        if answer is None:
            return self._plainly(call)
        if "fail" in answer:
            raise OSError(answer["fail"])
        if "results" in answer:
            return TransportAnswer(results(call, answer["results"], answer["fields"]))
        return TransportAnswer(answer["body"], answer.get("status", 200))

    def _plainly(self, call: TransportCall) -> TransportAnswer:
        if call.kind == "push":
            return TransportAnswer(results(call, "applied", {}))
        if call.kind == "pull":
            page = {"items": [], "nextCursor": None, "hasMore": False, "lastReconciledWriteIds": {}}
            return TransportAnswer(page)
        if call.kind == "reconcile":
            return TransportAnswer(call.body)
        return TransportAnswer({"error": "the script has no answer", "code": "not_found"}, 404)

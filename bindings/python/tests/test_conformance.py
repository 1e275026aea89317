"""The conformance suite in Python: scenarios as data, with the results that every language has."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import unittest
from typing import Any

import vfs_sync
from scripted import Scripted

DIRECTORY = pathlib.Path(__file__).resolve().parents[2] / "conformance"


def filled(value: Any, names: dict[str, Any]) -> Any:
    """Replaces `$name` by the value that an earlier step gave the name."""
    if isinstance(value, str) and value.startswith("$"):
        return names[value[1:]]
    if isinstance(value, list):
        return [filled(one, names) for one in value]
    if isinstance(value, dict):
        return {key: filled(one, names) for key, one in value.items()}
    return value


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {camel(field.name): as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [as_json(one) for one in value] if isinstance(value, list) else value


EDITS = {
    "create": lambda batch, e: batch.create(
        e["type"], e["name"], parent=e["parent"], metadata=e["metadata"], id=e.get("id")
    ),
    "rename": lambda batch, e: batch.rename(e["item"], e["name"]),
    "move": lambda batch, e: batch.move(e["item"], e["parent"]),
    "link": lambda batch, e: batch.link(e["item"], e["parent"]),
    "unlink": lambda batch, e: batch.unlink(e["item"], e["parent"]),
    "delete": lambda batch, e: batch.delete(e["item"], recursive=e.get("recursive", False)),
    "setMetadata": lambda batch, e: batch.set_metadata(e["item"], e["metadata"]),
    "touch": lambda batch, e: batch.touch(e["item"], e["modifiedAt"]),
    "share": lambda batch, e: batch.share(e["item"], e["principal"], e["level"]),
    "unshare": lambda batch, e: batch.unshare(e["item"], e["principal"]),
}

QUERY = {"namePrefix": "name_prefix", "modifiedSince": "modified_since", "sortBy": "sort_by"}


def find(client: vfs_sync.Client, query: dict[str, Any]) -> Any:
    found = client.find(**{QUERY.get(key, key): value for key, value in query.items()})
    return [[item.id, item.name, item.modified_at] for item in found.items]


def edit(client: vfs_sync.Client, edits: list[dict[str, Any]]) -> None:
    client.transaction(lambda batch: [EDITS[one["edit"]](batch, one) for one in edits] and None)


CALLS = {
    "answer": lambda client, step, server: server.on(**{k: v for k, v in step.items() if k != "do"}),
    "clock": lambda client, step, server: client.advance_clock(step["millis"]),
    "put": lambda client, step, server: client.put(step["item"], step["text"].encode()) and None,
    "tree": lambda client, step, server: [entry.path for entry in client.walk()],
    "state": lambda client, step, server: client.export_state(),
    "violations": lambda client, step, server: [
        {"signature": one.signature, "message": one.message, "details": one.details}
        for one in client.take_violations()
    ],
    "sync": lambda client, step, server: as_json(client.sync()),
    "find": lambda client, step, server: find(client, step["query"]),
    "edit": lambda client, step, server: edit(client, step["edits"]),
    "getOrCreateFolder": lambda client, step, server: client.get_or_create_folder(step["name"]),
    "hydrateState": lambda client, step, server: client.hydrate_state(step["state"]),
    "clientId": lambda client, step, server: client.client_id,
    "children": lambda client, step, server: client.children(step["parent"]),
    "resolve": lambda client, step, server: client.resolve(step["path"]),
    "syncState": lambda client, step, server: as_json(client.sync_state()),
    "outstanding": lambda client, step, server: as_json(client.outstanding()),
}


class Conformance(unittest.TestCase):
    def test_every_scenario_has_the_expected_results(self) -> None:
        files = sorted(DIRECTORY.glob("*.json"))
        self.assertGreaterEqual(len(files), 4)
        for file in files:
            with self.subTest(file.name):
                self.run_scenario(json.loads(file.read_text("utf-8"))["steps"])

    def run_scenario(self, steps: list[dict[str, Any]]) -> None:
        server, names = Scripted(), dict[str, Any]()
        test = {"seed": 1, "now": "2026-01-01T12:00:00.000Z"}
        with vfs_sync.Client.open(
            user="alice", client_id="conformance", device="laptop", test=test, transport=server
        ) as client:
            for at, raw in enumerate(steps):
                step = filled(raw, names)
                place = f"step {at}: {step['do']}"
                try:
                    result = CALLS[step["do"]](client, step, server)
                except vfs_sync.VfsSyncError as error:
                    expected = step.get("error", {})
                    self.assertEqual(error.code, expected.get("code"), f"{place}: {error}")
                    if "signature" in expected:
                        self.assertEqual(error.signature, expected["signature"], place)
                    continue
                self.assertNotIn("error", step, f"{place} succeeded")
                if "as" in step:
                    names[step["as"]] = result
                # The results of the edits of a transaction are those of the batch.
                if "shows" in step:
                    self.assertEqual(len(result), len(step["shows"]), place)
                elif step["do"] != "edit" and "expect" in step:
                    self.assertEqual(result, step["expect"], place)


if __name__ == "__main__":
    unittest.main()

"""The client in Python: blocking and asynchronous, its streams, contents, failures and memory."""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import resource
import sys
import tempfile
import threading
import unittest
from typing import Any

import vfs_sync
from scripted import Scripted
from vfs_sync import AsyncClient, Client, TransportAnswer, TransportCall, VfsSyncError

CALLS = int(os.environ.get("VFS_SYNC_TEST_CALLS", 50_000))
SLACK_KIB = 24 * 1024


def offline(**options: Any) -> Client:
    return Client.open(user="alice", transport=Scripted(), **options)


class Blocking(unittest.TestCase):
    def test_edits_are_shown_and_streamed_with_the_item_before(self) -> None:
        with offline() as client, client.changes() as changes:
            photos = client.get_or_create_folder("Photos")
            sea = client.create_file("sea.jpg", parent=photos)
            client.rename(sea, "shore.jpg")
            self.assertEqual([child.shown_name for child in client.children(photos)], ["shore.jpg"])
            for before, after in [(None, "/Photos"), (None, "/Photos/sea.jpg"), ("sea.jpg", "/Photos/shore.jpg")]:
                change = next(changes)
                self.assertEqual(change.before and change.before.name, before)
                self.assertEqual(change.after.path, after)
            self.assertEqual(client.delete(photos, recursive=True), 2)
            self.assertIsNone(client.node(sea))

    def test_contents_are_streamed_from_blocks_and_files(self) -> None:
        with tempfile.TemporaryDirectory() as place, offline(directory=pathlib.Path(place) / "replica") as client:
            item = client.create_file("f")
            with client.writer(item) as writer:
                for _ in range(3):
                    writer.write(bytes(500_000))
            content = client.read(item)
            self.assertEqual((content.size, sum(map(len, content))), (1_500_000, 1_500_000))
            with self.assertRaisesRegex(RuntimeError, "given up"), client.writer(item) as writer:
                writer.write(b"half")
                raise RuntimeError("given up")
            self.assertEqual(client.read(item).size, 1_500_000)
            path = pathlib.Path(place) / "source"
            path.write_bytes(b"from a file")
            client.put_file(item, path)
            self.assertEqual(client.read(item).read(), b"from a file")

    def test_failures_have_codes(self) -> None:
        with offline() as client:
            folder = client.create_folder("a")
            for call, code in [
                (lambda: client.resolve("/nothing"), "unknownPath"),
                (lambda: client.children("unknown"), "unknownItem"),
                (lambda: client.node(""), "invalid"),
                (lambda: client.rename(folder, "a/b"), "invalid"),
                (lambda: client.move(folder, folder), "cycle"),
                (lambda: client.read(folder), "noContent"),
                (lambda: client.find(name="a", name_prefix="a"), "invalid"),
                (lambda: Client.open(user="a"), "invalid"),
                (lambda: Client.open(user="a", token="t", server="ftp://x"), "invalidAddress"),
            ]:
                with self.assertRaises(VfsSyncError) as raised:
                    call()
                self.assertEqual(raised.exception.code, code)
        with self.assertRaises(VfsSyncError) as raised:
            client.node(folder)
        self.assertEqual(raised.exception.code, "closed")

    def test_a_transport_that_raises_is_a_network_failure(self) -> None:
        server = Scripted()
        with Client.open(user="alice", transport=server) as client:
            client.create_folder("a")
            server.on("push", fail="no line")
            with self.assertRaisesRegex(VfsSyncError, "no line") as raised:
                client.sync()
            self.assertTrue(raised.exception.transient)
            self.assertEqual(client.sync_state().connection, "offline")
            server.on("pull", body={"items": [], "nextCursor": None, "hasMore": True, "lastReconciledWriteIds": {}})
            with self.assertRaises(vfs_sync.GuardrailViolationError) as violated:
                client.sync()
            self.assertEqual(violated.exception.signature, "pull:pullPageInvariantViolation")
            self.assertEqual(client.take_violations(), [violated.exception.violation])

    def test_threads_share_a_client(self) -> None:
        with offline() as client:
            threads = [
                threading.Thread(target=lambda: [client.create_folder("f") for _ in range(20)]) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(len(client.children()), 80)

    def test_many_calls_with_flat_memory(self) -> None:
        with offline() as client:
            item = client.create_file("f")
            client.put(item, bytes(1_000))
            rounds = CALLS // 50
            before = 0
            for count in range(rounds + rounds // 5):
                if count == rounds // 5:
                    gc.collect()
                    before = resident_kib()
                for _ in range(20):
                    client.node(item)
                    client.children()
                with client.changes(), self.assertRaises(VfsSyncError):
                    client.resolve("/nowhere")
                with self.assertRaises(VfsSyncError):
                    client.rename("unknown", "x")
                client.writer(item).abort()
                self.assertEqual(len(client.read(item).read()), 1_000)
                self.assertEqual(len(client.find(limit=10).items), 1)
                with client.watch(limit=10) as results:
                    next(results)
                if count % 10 == 0:
                    client.pull()
                    asyncio.run(self.comes_and_goes(count))
            gc.collect()
            grown = resident_kib() - before
            print(f"{resident_kib() // 1024} MiB resident, {grown} KiB more than after the first fifth", file=sys.stderr)
            self.assertLess(grown, SLACK_KIB)

    async def comes_and_goes(self, count: int) -> None:
        """Opens a client, which is not always closed, with calls that are cancelled at one await or another."""
        other = await AsyncClient.open(user="alice", transport=Scripted())
        note = await other.create("note", "n", metadata={"stars": 5})
        await other.put(note, b"text")
        await other.transaction(lambda batch: batch.rename(note, "m"))
        calls = [asyncio.create_task(call) for call in (other.sync(), other.find(), anext(other.changes()))]
        for _ in range(count // 10 % 5):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        if count % 20 == 0:
            await other.close()

    def test_handles_are_dropped_in_any_order(self) -> None:
        for count in range(30):
            client = offline()
            item = client.create_file("f")
            client.put(item, b"text")
            held: list[Any] = [client.changes(), client.writer(item), client.read(item), client]
            if count % 2:
                held.reverse()
            if count % 3 == 0:
                client.close()
            del client
            while held:
                held.pop()
                gc.collect() if count % 10 == 0 else None


def resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_edits_streams_and_contents(self) -> None:
        async with await AsyncClient.open(user="alice", transport=Scripted()) as client:
            async with client.watch(type="note") as results:
                self.assertEqual((await anext(results)).order, [])
                note = await client.create("note", "a", metadata={"stars": 5})
                self.assertEqual((await anext(results)).order, [note])
            async with client.writer(note) as writer:
                await writer.write(b"hello")
            content = await client.read(note)
            self.assertEqual([chunk async for chunk in content], [b"hello"])
            found = await client.find(metadata={"key": "stars", "value": 5})
            self.assertEqual([item.id for item in found.items], [note])
            await asyncio.gather(*(client.rename(note, str(name)) for name in range(20)))
            self.assertEqual((await client.sync()).applied, 21)

    async def test_a_cancelled_task_cancels_its_call(self) -> None:
        arrived, stay = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def transport(call: TransportCall) -> TransportAnswer:
            loop.call_soon_threadsafe(arrived.set)
            stay.wait(20)
            raise OSError("late")

        async with await AsyncClient.open(user="alice", transport=transport) as client:
            task = asyncio.create_task(client.pull())
            await arrived.wait()
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(client.events()), 0.01)
            stay.set()
            with self.assertRaises(VfsSyncError):
                await client.pull()

    async def test_a_coroutine_gives_tokens(self) -> None:
        async def token(refresh: bool) -> str:
            await asyncio.sleep(0)
            raise RuntimeError("signed out")

        server = "http://127.0.0.1:9"
        async with await AsyncClient.open(user="alice", server=server, token=token) as client:
            with self.assertRaisesRegex(VfsSyncError, "signed out") as raised:
                await client.sync()
            self.assertEqual(raised.exception.code, "unauthorized")


if __name__ == "__main__":
    unittest.main()

"""Arguments, callbacks and ends that a careful application does not have: each is an error with a code or
has no effect, and none ends the process."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

import vfs_sync
from scripted import Scripted
from vfs_sync import AsyncClient, Client, Principal, TransportAnswer, TransportCall, VfsSyncError

HERE = pathlib.Path(__file__).resolve().parent
NOWHERE = "http://127.0.0.1:9"


def offline(*place: Any, **options: Any) -> Client:
    return Client.open(*place, **{"user": "alice", "transport": Scripted(), **options})


class Case(unittest.TestCase):
    def refused(self, call: Callable[[], Any], *codes: str) -> VfsSyncError:
        """Has a call fail with one of some codes, `invalid` by default."""
        with self.assertRaises(VfsSyncError) as raised:
            call()
        self.assertIn(raised.exception.code, codes or ("invalid",), str(raised.exception))
        return raised.exception


class Arguments(Case):
    def test_a_content_is_made_of_bytes(self) -> None:
        with offline() as client:
            item = client.create_file("f")
            for wrong in (5, 10**12, None, "text", [1, 2], object()):
                with self.assertRaises(TypeError):
                    client.put(item, wrong)  # type: ignore[arg-type]
                with self.assertRaises(TypeError), client.writer(item) as writer:
                    writer.write(wrong)  # type: ignore[arg-type]
            self.assertIsNone(client.node(item).content)  # type: ignore[union-attr]
            for data in (b"wave", bytearray(b"wave"), memoryview(b"-w-a-v-e")[1::2]):
                client.put(item, data)  # type: ignore[arg-type]
                self.assertEqual(client.read(item).read(), b"wave")

    def test_what_json_cannot_hold_is_refused_and_not_stored_as_something_else(self) -> None:
        circle: dict[str, Any] = {}
        circle["circle"] = circle
        deep: Any = 1
        for _ in range(100_000):
            deep = [deep]
        with offline() as client:
            note = client.create("note", "n")
            before = client.export_state()
            for value in (
                float("nan"), float("inf"), 2**64, -(2**63) - 1, 10**5000, b"x", {1}, object(), circle, deep, {1: 2},
                "\ud800", datetime.now(), [float("nan")], 1j,
            ):
                self.refused(lambda value=value: client.set_metadata(note, {"key": value}))
            loose: Any = client
            for call in (
                lambda: loose.rename(note, None),
                lambda: loose.rename(note, 5),
                lambda: loose.move(note, 5),
                lambda: loose.delete(None),
                lambda: loose.delete(note, recursive="yes"),
                lambda: loose.share(note, {"kind": "user"}, "read"),
                lambda: loose.share(note, {"kind": "user", "id": "bob"}, "own"),
                lambda: loose.touch(note, "yesterday"),
                lambda: loose.touch(note, 5),
                lambda: loose.walk(limit=-1),
                lambda: loose.walk(limit=2**70),
                lambda: loose.walk(limit=1.5),
                lambda: loose.find(limit=-1),
                lambda: loose.find(sort_by="colour"),
                lambda: loose.watch(colour="red"),
                lambda: loose.lost(after=2**63),
                lambda: loose.hydrate_state(5),
                lambda: loose.fetch("x"),
                lambda: loose.fetch([None]),
                lambda: loose.node(None),
                lambda: loose.node(b"x"),
                lambda: loose.create("pixie", "x"),
                lambda: loose.advance_clock(1),
            ):
                self.refused(call)
            for call in (lambda: loose.read(None), lambda: loose.read("x", version=5), lambda: loose.share(note, 5, "read")):
                with self.assertRaises(TypeError):
                    call()
            with self.assertRaises(OverflowError):
                loose.advance_clock(2**63)
            self.assertEqual(client.export_state(), before, "nothing was stored")
            client.set_metadata(note, {"great": 2**64 - 1, "small": -(2**63), "list": [None, {"a": "\0"}]})
            metadata = client.node(note).metadata  # type: ignore[union-attr]
            self.assertEqual((metadata["great"], metadata["small"]), (2**64 - 1, -(2**63)))

    def test_names_ids_and_paths_of_any_text_are_taken_or_refused_by_a_code(self) -> None:
        codes = ("invalid", "unknownPath", "unknownItem", "unknownRejected", "violation")
        with offline() as client:
            for text in ("", " ", ".", "..", "/", "\0", "a\0b", "\ud800", "\u202e", "😀" * 300, "x" * 300_000):
                for call in (
                    client.create_file, client.get_or_create_folder, client.node, client.resolve, client.children,
                    client.shared_by, client.retry, client.hydrate_state, lambda text: client.find(name_prefix=text),
                ):
                    try:
                        call(text)
                    except VfsSyncError as error:
                        self.assertIn(error.code, codes)

    def test_options_of_any_value_are_taken_or_refused(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"page_limit": 0}, {"page_limit": -1}, {"page_limit": 501}, {"page_limit": 2**70}, {"transfers": 65},
            {"cache_size": -1}, {"interval_ms": 0}, {"live_interval_ms": 0}, {"user": ""}, {"user": b"alice"},
            {"user": "a\0b"}, {"mode": "x"}, {"live": "no"}, {"client_id": ""}, {"device": object()}, {"transport": 5},
            {"token": 5}, {"test": {"seed": -1, "now": "2026-01-01T00:00:00.000Z"}},
        ]
        for options in wrong:
            self.refused(lambda options=options: offline(**options))
        self.refused(lambda: offline("a\0b"), "invalid", "io", "storage")
        with offline(interval_ms=2**64 - 1, live_interval_ms=2**64 - 1) as client:
            client.start_background()
            client.create_folder("a")
            client.request_sync()

    def test_values_go_back_in_and_may_be_copied(self) -> None:
        with offline() as client:
            note = client.create("note", "n")
            client.share(note, Principal("user", "bob"), "read")
            (grant,) = client.grants(note)
            client.unshare(note, grant.principal)
            client.unshare(note, {"kind": "user", "id": "bob"})
            at = datetime(2020, 1, 2, 3, 4, 5, 678_901, timezone(timedelta(hours=2)))
            client.touch(note, at)
            node = client.node(note)
            assert node is not None
            self.assertEqual(node.modified_at, "2020-01-02T01:04:05.678Z")
            self.assertEqual([item.id for item in client.find(modified_since=at).items], [note])
            self.assertEqual((copy.deepcopy(node), pickle.loads(pickle.dumps(node))), (node, node))
            error = pickle.loads(pickle.dumps(self.refused(lambda: client.resolve("/x"), "unknownPath")))
            self.assertEqual((error.code, error.details), ("unknownPath", {"path": "/x"}))

    def test_a_transaction_that_is_asynchronous_is_refused_whole(self) -> None:
        kept: list[vfs_sync.Batch] = []

        async def make(batch: vfs_sync.Batch) -> None:
            batch.create_folder("half")

        def fails(batch: vfs_sync.Batch) -> None:
            kept.append(batch)
            batch.create_folder("half")
            raise ZeroDivisionError

        with offline() as client:
            self.refused(lambda: client.transaction(make))
            with self.assertRaises(ZeroDivisionError):
                client.transaction(fails)
            self.refused(lambda: kept[0].create_folder("late"))
            self.assertEqual(client.children(), [])


class Callbacks(Case):
    def test_a_transport_that_answers_anything_is_a_failure_of_the_server(self) -> None:
        class Unprintable(BaseException):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        def raising(error: BaseException) -> Callable[[TransportCall], Any]:
            def call(_: TransportCall) -> Any:
                raise error

            return call

        async def coroutine(_: TransportCall) -> Any:
            return None

        answers: list[Any] = [
            lambda call: None, lambda call: {}, lambda call: TransportAnswer(object()), lambda call: TransportAnswer({}, -1),
            lambda call: TransportAnswer({}, 2**70), lambda call: TransportAnswer({}, data="text"),  # type: ignore[arg-type]
            lambda call: TransportAnswer("\ud800"), lambda call: TransportAnswer("{"), lambda: None, coroutine,
            lambda call: TransportAnswer({}, 503, retry_after=float("nan")),
            lambda call: TransportAnswer({}, 503, retry_after=-1.0),
            raising(Unprintable()), raising(SystemExit(9)), raising(KeyboardInterrupt()), raising(GeneratorExit()),
        ]
        for answer in answers:
            with offline(transport=answer) as client:
                client.create_folder("kept")
                before = client.export_state()
                self.refused(client.sync, "network", "malformedResponse", "refused")
                self.assertEqual(client.export_state(), before)

    def test_a_token_that_is_no_token_is_an_error(self) -> None:
        def no_token(refresh: bool) -> str:
            raise SystemExit("signed out")

        tokens: list[Any] = [
            lambda refresh: None, lambda refresh: b"x", lambda refresh: 5, lambda: "x", lambda refresh: "a\r\nX: y",
            lambda refresh: "\ud800", lambda refresh: "é", lambda refresh: "x" * 1_000_000, no_token,
        ]
        for token in tokens:
            with Client.open(user="alice", server=NOWHERE, token=token) as client:
                self.refused(client.sync, "unauthorized", "network")

    def test_a_callback_may_use_the_client(self) -> None:
        seen: list[str] = []

        def transport(call: TransportCall) -> TransportAnswer:
            seen.extend(child.shown_name for child in client.children())
            return Scripted()(call)

        with offline(transport=transport) as client:
            client.create_folder("a")
            client.sync()
        self.assertIn("a", seen)

    def test_a_client_is_closed_during_calls_of_other_threads(self) -> None:
        for _ in range(20):
            arrived, stay = threading.Event(), threading.Event()

            def transport(call: TransportCall) -> TransportAnswer:
                arrived.set()
                stay.wait(20)
                raise OSError("late")

            client = offline(transport=transport)
            codes: list[str] = []

            def run(call: Callable[[], Any]) -> None:
                try:
                    while True:
                        call()
                except StopIteration:
                    codes.append("closed")
                except VfsSyncError as error:
                    codes.append(error.code)

            events = client.events()
            calls = [client.sync, client.children, lambda: client.create_folder("f"), lambda: next(events)]
            threads = [threading.Thread(target=run, args=(call,)) for call in calls]
            for thread in threads:
                thread.start()
            arrived.wait(20)
            closers = [threading.Thread(target=client.close) for _ in range(3)]
            for thread in closers:
                thread.start()
            for thread in closers + threads:
                thread.join(20)
                self.assertFalse(thread.is_alive())
            stay.set()
            self.assertEqual(codes, ["closed"] * 4)


class Processes(Case):
    @unittest.skipUnless(hasattr(os, "fork"), "the system has no fork")
    def test_a_forked_child_is_told_so_and_harms_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            client = offline(pathlib.Path(place) / "replica")
            item = client.create_file("f")
            client.put(item, b"whole")
            held: list[Any] = [client.writer(item), client.changes(), client.read(item)]
            held[0].write(b"half ")
            answer, tell = os.pipe()
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                codes = []
                for call in (
                    lambda: client.node(item), client.children, lambda: client.create_folder("g"), client.sync, client.changes,
                    lambda: held[0].write(b"x"), lambda: next(held[1]), lambda: held[2].read(), lambda: offline(), client.close,
                ):
                    try:
                        call()
                        codes.append("done")
                    except VfsSyncError as error:
                        codes.append(error.code)
                    except BaseException as error:
                        codes.append(repr(error))
                held.clear()
                del client, call
                gc.collect()
                os.write(tell, ",".join(codes).encode())
                os._exit(0)
            os.close(tell)
            with open(answer, "rb") as told:
                self.assertEqual(told.read().decode().split(","), ["invalid"] * 10)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            held[0].write(b"and whole")
            held[0].finish()
            self.assertEqual(client.read(item).read(), b"half and whole")
            self.assertEqual(held[2].read(), b"whole")
            client.rename(item, "renamed")
            self.refused(lambda: offline(pathlib.Path(place) / "replica"), "inUse")
            client.close()
            with offline(pathlib.Path(place) / "replica") as again:
                self.assertEqual([child.name for child in again.children()], ["renamed"])

    def ended(self, script: str, code: int = 0) -> None:
        """Runs a script in a process of its own, which must end by itself."""
        start = """
import asyncio, os, sys, threading, time
from vfs_sync import AsyncClient, Client
from scripted import Scripted
arrived = threading.Event()
def stays(*_):
    arrived.set()
    time.sleep(60)
def opened(**options): return Client.open(user="alice", **{"transport": Scripted(), **options})
"""
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-c", start + script], capture_output=True, text=True, timeout=20,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.assertEqual(done.returncode, code, script + done.stderr)
        self.assertIsNone(re.search("panicked|Fatal|FATAL", done.stderr), script + done.stderr)

    def test_an_interpreter_ends_in_the_middle_of_anything(self) -> None:
        scripts = [
            ("c = opened(transport=stays); c.start_background(); arrived.wait()", 0),
            ('c = Client.open(user="alice", server="http://127.0.0.1:9", token=stays); c.start_background(); arrived.wait()', 0),
            ("c = opened(transport=stays); threading.Thread(target=c.sync, daemon=True).start(); arrived.wait()", 0),
            ("c = opened(); s = c.changes(); threading.Thread(target=lambda: next(s), daemon=True).start(); sys.exit(3)", 3),
            ("c = opened(transport=lambda call: os._exit(4)); c.sync()", 4),
            ("c = opened(transport=lambda call: sys.exit(4)); c.start_background(); time.sleep(0.2)", 0),
            (
                """
async def main():
    c = await AsyncClient.open(user="alice", transport=stays)
    asyncio.get_running_loop().create_task(c.sync())
    asyncio.get_running_loop().create_task(anext(c.changes()))
    await asyncio.sleep(0.1)
asyncio.run(main())""",
                0,
            ),
            (
                """
loop = asyncio.new_event_loop()
async def token(refresh):
    arrived.set()
    await asyncio.sleep(60)
c = loop.run_until_complete(AsyncClient.open(user="alice", server="http://127.0.0.1:9", token=token))
loop.run_until_complete(c.start_background())
while not arrived.is_set(): loop.run_until_complete(asyncio.sleep(0.01))
loop.stop()""",
                0,
            ),
        ]
        threads = []
        failures: list[BaseException] = []

        def run(script: str, code: int) -> None:
            try:
                self.ended(script, code)
            except BaseException as failure:
                failures.append(failure)

        for one in scripts:
            threads.append(threading.Thread(target=run, args=one))
            threads[-1].start()
        for thread in threads:
            thread.join()
        for failure in failures:
            raise failure

    def test_a_signal_ends_a_call_that_waits(self) -> None:
        arrived, ended = threading.Event(), threading.Event()
        # A shell starts its background jobs with the signal ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

        def transport(call: TransportCall) -> TransportAnswer:
            arrived.set()
            ended.wait(60)
            raise OSError("late")

        with offline(transport=transport) as client:
            interrupt = threading.Thread(target=lambda: (arrived.wait(60), os.kill(os.getpid(), signal.SIGINT)))
            interrupt.start()
            with self.assertRaises(KeyboardInterrupt):
                client.sync()
            ended.set()
            interrupt.join()


class Loops(unittest.IsolatedAsyncioTestCase):
    async def test_no_value_is_lost_by_waits_that_are_cancelled(self) -> None:
        async with await AsyncClient.open(user="alice", transport=Scripted()) as client:
            changes = client.changes()
            made = [await client.create_folder(f"f{count}") for count in range(100)]
            seen: list[Any] = []
            waits = 0
            while len(seen) < len(made):
                waits += 1
                try:
                    seen.append((await asyncio.wait_for(anext(changes), (waits % 4) / 10_000)).id)
                except asyncio.TimeoutError:
                    self.assertLess(waits, 100_000)
            self.assertEqual(seen, made)
            waiting = asyncio.create_task(anext(changes))
            await asyncio.sleep(0)
            changes.close()
            with self.assertRaises(StopAsyncIteration):
                await waiting

    async def test_tokens_come_from_whatever_gives_them(self) -> None:
        class Source:
            async def __call__(self, refresh: bool) -> str:
                await asyncio.sleep(0)
                raise RuntimeError("asked")

        source = Source()
        for token in (source, source.__call__, lambda refresh: source(refresh)):
            async with await AsyncClient.open(user="alice", server=NOWHERE, token=token) as client:
                with self.assertRaisesRegex(VfsSyncError, "asked"):
                    await client.sync()

    async def test_a_block_that_fails_or_is_cancelled_closes_its_client(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            for count in range(20):
                entered = asyncio.Event()

                async def work() -> None:
                    async with await AsyncClient.open(place + "/replica", user="alice", transport=Scripted()) as client:
                        await client.start_background()
                        entered.set()
                        if count % 2:
                            raise ZeroDivisionError
                        await anext(client.progress())

                task = asyncio.create_task(work())
                await entered.wait()
                for _ in range(count % 4):
                    await asyncio.sleep(0)
                task.cancel()
                task.cancel()
                with self.assertRaises((asyncio.CancelledError, ZeroDivisionError)):
                    await task
                # The release goes on although the wait for it was cancelled.
                for _ in range(200):
                    try:
                        client = await AsyncClient.open(place + "/replica", user="alice", transport=Scripted())
                        break
                    except VfsSyncError as error:
                        self.assertEqual(error.code, "inUse")
                        await asyncio.sleep(0.01)
                await client.close()

    async def test_streams_are_abandoned_and_generators_not_closed(self) -> None:
        async with await AsyncClient.open(user="alice", transport=Scripted()) as client:
            for name in "abc":
                await client.create_folder(name)
            pages = client.find_all(limit=1)
            self.assertEqual((await anext(pages)).name, "a")
            del pages
            for _ in range(50):
                task = asyncio.create_task(anext(client.watch()))
                await asyncio.sleep(0)
                task.cancel()
            gc.collect()
            self.assertEqual([item.name async for item in client.find_all(limit=2)], ["a", "b", "c"])


class Parity(unittest.TestCase):
    def test_both_clients_have_every_call_of_the_node_package(self) -> None:
        node = HERE.parents[1] / "node" / "src"
        named = re.compile(r"(?:call|stream|edit): '(\w+)'")
        wanted = set(named.findall((node / "client.ts").read_text("utf-8")))
        package = pathlib.Path(vfs_sync.__file__).parent
        reads = (package / "_base.py").read_text("utf-8")
        self.assertGreater(len(wanted), 50)
        for module in ("client.py", "aio.py"):
            source = reads + (package / module).read_text("utf-8")
            self.assertEqual({name for name in wanted if f'"{name}"' not in source}, set(), module)
        codes = set(re.findall(r"\| '(\w+)'", (node / "errors.ts").read_text("utf-8").partition(";")[0]))
        self.assertEqual(codes, set(vfs_sync.ErrorCode.__args__))  # type: ignore[attr-defined]


if __name__ == "__main__":
    unittest.main()

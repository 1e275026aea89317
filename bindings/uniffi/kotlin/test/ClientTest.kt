import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.*
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import vfssync.*


suspend fun offline(transport: Transport = Scripted()): Client =
    Client.open(ClientOptions("alice"), transport = transport)

/** Has a call fail with a variant; returns the failure. */
inline fun <reified T : VfsSyncException> refused(call: () -> Any?): T {
    try {
        call()
    } catch (failure: VfsSyncException) {
        return failure as? T ?: throw AssertionError("not ${T::class.java.simpleName}", failure)
    }
    throw AssertionError("the call succeeded and not ${T::class.java.simpleName}")
}

suspend fun metadataComesBack() = offline().use { client ->
    val metadata = mapOf(
        "none" to JsonValue.Bool(true), "stars" to JsonValue.Int(5), "half" to JsonValue.Double(0.5), "text" to JsonValue.Text("é"),
        "list" to JsonValue.Nested("""[1,{"a":null}]"""),
    )
    val note = client.create(ObjectType.NOTE, "n", metadata = metadata)
    same(client.node(note)!!.metadata, metadata, "metadata")
    client.setMetadata(note, mapOf("stars" to JsonValue.Null))
    check("stars" !in client.node(note)!!.metadata)
    val before = client.exportState()
    for (wrong in listOf(JsonValue.Double(Double.NaN), JsonValue.Nested("["), JsonValue.Nested("[".repeat(100_000)))) {
        check("`wrong`" in refused<VfsSyncException.Invalid> { client.setMetadata(note, mapOf("wrong" to wrong)) }.reason)
    }
    same(client.exportState(), before, "the state after refused edits")
}

suspend fun failuresAreVariants() = offline().use { client ->
    val unknown = refused<VfsSyncException.UnknownPath> { client.resolve("/nothing") }
    same(unknown.details["path"], JsonValue.Text("/nothing"), "the path")
    refused<VfsSyncException.Invalid> { client.createFolder("a/b") }
    refused<VfsSyncException.Invalid> { Client.open(ClientOptions("alice")) }
    refused<VfsSyncException.Invalid> { offline(Scripted()).find(Query(name = "a", namePrefix = "b")) }
    val thrown = object : Transport {
        override suspend fun call(call: TransportCall): TransportAnswer = throw IllegalStateException("out of cheese")
    }
    offline(thrown).use { check(refused<VfsSyncException.Network> { it.sync() }.transient) }
    val nothing = object : Transport {
        override suspend fun call(call: TransportCall) = TransportAnswer(200u, "{")
    }
    offline(nothing).use { refused<VfsSyncException.MalformedResponse> { it.sync() } }
    client.shutdown()
    refused<VfsSyncException.Closed> { client.children() }
    refused<VfsSyncException.Closed> { client.createFolder("a") }
}

suspend fun tokensComeFromTheApplication() {
    val asked = AtomicInteger()
    val provider = object : TokenProvider {
        override suspend fun token(refresh: Boolean): String {
            asked.incrementAndGet()
            throw CallbackException.Failed("signed out")
        }
    }
    val options = ClientOptions("alice", server = "http://127.0.0.1:9")
    Client.open(options, tokens = provider).use { client ->
        val failure = runCatching { client.sync() }.exceptionOrNull()
        check("signed out" in failure!!.message!!) { failure }
        check(asked.get() > 0)
    }
}

suspend fun aCallIsCancelled() = coroutineScope {
    val arrived = CompletableDeferred<Unit>()
    val never = object : Transport {
        override suspend fun call(call: TransportCall): TransportAnswer {
            arrived.complete(Unit)
            awaitCancellation()
        }
    }
    offline(never).use { client ->
        val call = launch { client.sync() }
        arrived.await()
        call.cancelAndJoin()
        val cancellation = Cancellation()
        val other = async { refused<VfsSyncException.Cancelled> { client.pull(cancellation) } }
        cancellation.cancel()
        other.await()
        val late = async { refused<VfsSyncException.Closed> { client.sync() } }
        yield()
        client.shutdown()
        late.await()
    }
}

suspend fun streamsHaveTheirValuesInOrder() = coroutineScope {
    val client = offline()
    val changes = client.changes()
    val waiting = List(3) { async(start = CoroutineStart.UNDISPATCHED) { changes.next() } }
    val items = listOf(client.createFolder("a"), client.createFolder("b"))
    same(waiting.take(2).awaitAll().map { (it as TreeChange.Appeared).id }, items, "the changes")
    changes.end()
    same(waiting[2].await(), null, "the end")
    same(changes.asFlow().toList(), emptyList<TreeChange>(), "the rest")
    repeat(100) { client.watch(Query()).close() }

    val children = client.watchChildren()
    same(children.next()!!.map { it.shownName }, listOf("a", "b"), "the children")
    val moved = client.changes()
    client.moveTo(items[1], items[0])
    val change = moved.asFlow().first() as TreeChange.Changed
    same(listOf(change.before.path, change.after.path), listOf("/b", "/a/b"), "the paths")
    same(children.next()!!.map { it.shownName }, listOf("a"), "the children after")
    val found = client.watch(Query(namePrefix = "b"))
    same(found.next()!!.added.map { it.id }, listOf(items[1]), "the result")
    same(client.syncStates().next()!!.outstanding.pending, 3uL, "the queue")

    val rest = async(start = CoroutineStart.UNDISPATCHED) { found.asFlow().toList() }
    client.shutdown()
    same(rest.await(), emptyList<ResultChange>(), "a stream of a closed client")
    // Handles go in any order.
    client.close()
    listOf(changes, children, moved, found).forEach { it.close() }
}

suspend fun contentsAreStreams() = offline().use { client ->
    val item = client.createFile("f")
    refused<VfsSyncException.NoContent> { client.read(item) }
    val writer = client.writer(item)
    repeat(3) { writer.write(ByteArray(300_000) { it.toByte() }) }
    same(writer.finish().size, 900_000uL, "the size")
    refused<VfsSyncException.Closed> { writer.finish() }
    val content = client.read(item)
    same(content.asFlow().toList().sumOf { it.size }, 900_000, "the bytes")
    client.writer(item).close()
    client.close()
    content.close()
}

/** Many calls, and what they leave outside of the heap, which has its whole size at the start (`-Xms`, `AlwaysPreTouch`). */
suspend fun memoryStaysFlat() = offline().use { client ->
    val calls = (System.getenv("VFS_SYNC_TEST_CALLS") ?: "10000").toInt()
    val item = client.createFolder("a")
    suspend fun many(count: Int) = repeat(count) {
        check(client.node(item) != null)
        if (it % 50 == 0) client.changes().use { stream -> client.rename(item, "a$it"); stream.next() }
    }
    many(calls / 2)
    System.gc()
    val before = resident()
    many(calls)
    System.gc()
    val grown = resident() - before
    println("$calls calls left $grown KiB")
    check(grown < 32_000) { "$calls calls left $grown KiB" }
}

/** The KiB of this process in memory, where the system says it. */
fun resident(): Long {
    val status = java.io.File("/proc/self/status")
    return if (!status.exists()) 0 else status.readLines().first { it.startsWith("VmRSS") }.filter(Char::isDigit).toLong()
}

fun main(args: Array<String>) {
    conformance(args[0])
    val tests = listOf<Pair<String, suspend () -> Any?>>(
        "metadata comes back" to ::metadataComesBack,
        "failures are variants" to ::failuresAreVariants,
        "tokens come from the application" to ::tokensComeFromTheApplication,
        "a call is cancelled" to ::aCallIsCancelled,
        "streams have their values in order" to ::streamsHaveTheirValuesInOrder,
        "contents are streams" to ::contentsAreStreams,
    )
    for ((name, test) in tests) {
        runBlocking { withTimeout(120_000) { test() } }
        println("ok $name")
    }
    runBlocking { memoryStaysFlat() }
    println("ok memory stays flat")
}

// The conformance suite in Kotlin: scenarios as data, with the results that every language has.
import java.io.File
import java.time.Instant
import java.time.format.DateTimeFormatterBuilder
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.*
import kotlinx.serialization.json.Json as Parser
import vfssync.*
import vfssync.JsonValue as Value

/** Replaces `$name` by the value that an earlier step gave the name. */
fun filled(value: JsonElement, names: Map<String, JsonElement>): JsonElement = when {
    value is JsonPrimitive && value.isString && value.content.startsWith("$") -> names.getValue(value.content.drop(1))
    value is JsonArray -> JsonArray(value.map { filled(it, names) })
    value is JsonObject -> JsonObject(value.mapValues { filled(it.value, names) })
    else -> value
}

val millis = DateTimeFormatterBuilder().appendInstant(3).toFormatter()!!

fun json(value: Any?): JsonElement = when (value) {
    null, Unit -> JsonNull
    is JsonElement -> value
    is Boolean -> JsonPrimitive(value)
    is ULong -> JsonPrimitive(value.toLong())
    is Number -> JsonPrimitive(value)
    is Instant -> JsonPrimitive(millis.format(value))
    is List<*> -> JsonArray(value.map(::json))
    is Map<*, *> -> JsonObject(value.entries.associate { it.key as String to json(it.value) })
    is Value.Null -> JsonNull
    is Value.Bool -> JsonPrimitive(value.v1)
    is Value.Int -> JsonPrimitive(value.v1)
    is Value.Double -> JsonPrimitive(value.v1)
    is Value.Text -> JsonPrimitive(value.v1)
    is Value.Nested -> Parser.parseToJsonElement(value.v1)
    else -> JsonPrimitive(value.toString())
}

fun metadata(value: JsonElement?): Map<String, Value> = (value as? JsonObject).orEmpty().mapValues { value(it.value) }

fun value(json: JsonElement): Value = when {
    json is JsonNull -> Value.Null
    json !is JsonPrimitive -> Value.Nested(json.toString())
    json.isString -> Value.Text(json.content)
    json.booleanOrNull != null -> Value.Bool(json.boolean)
    json.longOrNull != null -> Value.Int(json.long)
    else -> Value.Double(json.double)
}

fun JsonObject.text(name: String): String? = get(name)?.jsonPrimitive?.contentOrNull

fun JsonObject.must(name: String): String = text(name)!!

fun principal(json: JsonElement): Principal = json.jsonObject.let {
    Principal(PrincipalKind.valueOf(it.must("kind").uppercase()), it.must("id"))
}

fun edit(json: JsonObject): Edit = when (json.must("edit")) {
    "create" -> Edit.Create(
        json.text("id"), ObjectType.valueOf(json.must("type").uppercase()), json.text("parent"), json.must("name"),
        metadata(json["metadata"]),
    )
    "rename" -> Edit.Rename(json.must("item"), json.must("name"))
    "move" -> Edit.Move(json.must("item"), json.text("parent"))
    "link" -> Edit.Link(json.must("item"), json.must("parent"))
    "unlink" -> Edit.Unlink(json.must("item"), json.must("parent"))
    "delete" -> Edit.Delete(json.must("item"), json["recursive"]?.jsonPrimitive?.boolean ?: false)
    "setMetadata" -> Edit.SetMetadata(json.must("item"), metadata(json["metadata"]))
    "touch" -> Edit.Touch(json.must("item"), Instant.parse(json.must("modifiedAt")))
    "share" -> Edit.Share(
        json.must("item"), principal(json["principal"]!!), AccessLevel.valueOf(json.must("level").uppercase())
    )
    "unshare" -> Edit.Unshare(json.must("item"), principal(json["principal"]!!))
    else -> error("an unknown edit: $json")
}

fun query(json: JsonObject): Query = Query(
    name = json.text("name"),
    namePrefix = json.text("namePrefix"),
    objectType = json.text("type")?.let { ObjectType.valueOf(it.uppercase()) },
    owner = json.text("owner"),
    metadata = (json["metadata"] as? JsonObject)?.let { MetadataIs(it.must("key"), value(it["value"]!!)) },
    modifiedSince = json.text("modifiedSince")?.let(Instant::parse),
    sortBy = json.text("sortBy")?.let { if (it == "name") SortBy.NAME else SortBy.MODIFIED_AT },
    descending = json["descending"]?.jsonPrimitive?.boolean ?: false,
    after = (json["after"] as? JsonObject)?.let {
        QueryCursor(it.must("name"), Instant.parse(it.must("modifiedAt")), it.must("id"))
    },
    limit = json["limit"]?.jsonPrimitive?.int?.toUInt() ?: 0u,
)

fun outstanding(of: Outstanding) = mapOf(
    "pending" to of.pending, "uploads" to of.uploads, "waiting" to of.waiting, "rejected" to of.rejected,
    "rejectedUploads" to of.rejectedUploads, "refused" to of.refused, "lost" to of.lost,
)

fun stop(of: StopReason?) = of?.let {
    mapOf(
        "signature" to it.signature, "message" to it.message, "details" to it.details,
        "oldestAvailable" to it.oldestAvailable,
    )
}

fun report(of: SyncReport) = mapOf(
    "applied" to of.applied, "outdated" to of.outdated, "rejected" to of.rejected, "pulled" to of.pulled,
    "uploaded" to of.uploaded, "waiting" to of.waiting, "uploadedBytes" to of.uploadedBytes, "pushes" to of.pushes,
    "pages" to of.pages, "rematerialised" to of.rematerialised,
    "offered" to of.offered.let {
        mapOf(
            "revocations" to it.revocations, "deletions" to it.deletions, "items" to it.items, "links" to it.links,
            "contents" to it.contents, "listed" to it.listed,
        )
    },
)

fun state(of: SyncState) = outstanding(of.outstanding) + mapOf(
    "connection" to of.connection.name.lowercase(), "offlineSince" to of.offlineSince,
    "pollingReason" to of.pollingReason, "lastInStepAt" to of.lastInStepAt, "running" to of.running,
    "stopped" to stop(of.stopped), "paused" to stop(of.paused),
)

suspend fun call(client: Client, step: JsonObject, server: Scripted): Any? = when (step.must("do")) {
    "answer" -> server.on(step.must("kind"), step)
    "clock" -> client.advanceClock(step["millis"]!!.jsonPrimitive.long)
    "put" -> client.put(step.must("item"), step.must("text").encodeToByteArray()).let { }
    "tree" -> client.walk().map { it.path }
    "state" -> client.exportState()
    "violations" -> client.takeViolations().map {
        val violation = it as VfsSyncException.Violation
        mapOf("signature" to violation.signature, "message" to violation.reason, "details" to violation.details)
    }
    "sync" -> report(client.sync())
    "find" -> client.find(query(step["query"]!!.jsonObject)).items.map { listOf(it.id, it.name, it.modifiedAt) }
    "edit" -> client.transaction(step["edits"]!!.jsonArray.map { edit(it.jsonObject) })
    "getOrCreateFolder" -> client.getOrCreateFolder(step.must("name"))
    "hydrateState" -> client.hydrateState(step.must("state")).let { mapOf("items" to it.items, "queued" to it.queued) }
    "clientId" -> client.clientId()
    "children" -> client.children(step.text("parent")).map { it.item.id }
    "resolve" -> client.resolve(step.must("path")).id
    "syncState" -> state(client.syncState())
    "outstanding" -> outstanding(client.outstanding())
    else -> error("an unknown call: $step")
}

/** The code of a failure, as other languages have it. */
fun code(failure: VfsSyncException): String = failure::class.java.simpleName.replaceFirstChar { it.lowercase() }

suspend fun run(steps: JsonArray) {
    val server = Scripted()
    val names = HashMap<String, JsonElement>()
    val options = ClientOptions(
        "alice", clientId = "conformance", device = "laptop",
        test = TestOptions(1u, Instant.parse("2026-01-01T12:00:00.000Z")),
    )
    Client.open(options, transport = server).use { client ->
        steps.forEachIndexed { at, raw ->
            val step = filled(raw, names).jsonObject
            val place = "step $at: ${step.must("do")}"
            val result = try {
                json(call(client, step, server))
            } catch (failure: VfsSyncException) {
                val expected = step["error"]?.jsonObject ?: throw AssertionError(place, failure)
                same(code(failure), expected.text("code"), place)
                expected["signature"]?.let {
                    same((failure as VfsSyncException.Violation).signature, it.jsonPrimitive.content, place)
                }
                return@forEachIndexed
            } catch (unknown: IllegalArgumentException) {
                // The types do not permit what other languages refuse.
                same("invalid", step["error"]?.jsonObject?.text("code"), "$place: $unknown")
                return@forEachIndexed
            }
            check("error" !in step) { "$place succeeded" }
            step.text("as")?.let { names[it] = result }
            // The results of the edits of a transaction are not returned.
            when {
                "shows" in step -> same(result.jsonArray.size, step["shows"]!!.jsonArray.size, place)
                step.must("do") != "edit" && "expect" in step -> same(result, step["expect"], place)
            }
        }
        client.shutdown()
    }
}

fun same(found: Any?, expected: Any?, what: String) = check(found == expected) { "$what: $found and not $expected" }

fun conformance(directory: String) = runBlocking {
    val files = File(directory).listFiles { file -> file.extension == "json" }!!.sorted()
    check(files.size >= 4)
    for (file in files) {
        run(Parser.parseToJsonElement(file.readText()).jsonObject["steps"]!!.jsonArray)
        println("ok conformance ${file.name}")
    }
}

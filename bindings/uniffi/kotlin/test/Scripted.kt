import java.util.ArrayDeque
import kotlinx.serialization.json.*
import vfssync.*

/** A transport with answers that a test sets, by the kind of the call; the others are those of a minimal server. */
class Scripted : Transport {
    private val answers = HashMap<String, ArrayDeque<JsonObject>>()

    @Synchronized
    fun on(kind: String, answer: JsonObject) {
        answers.getOrPut(kind, ::ArrayDeque).add(answer)
    }

    @Synchronized
    private fun next(kind: String): JsonObject? = answers[kind]?.poll()

    override suspend fun call(call: TransportCall): TransportAnswer = call.use {
        val request = Json.parseToJsonElement(call.body()).jsonObject
        val answer = next(call.kind()) ?: return@use plainly(call.kind(), request)
        answer["fail"]?.let { throw CallbackException.Failed(it.jsonPrimitive.content) }
        answer["results"]?.let { status ->
            val fields = answer["fields"] as? JsonObject ?: JsonObject(emptyMap())
            return@use TransportAnswer(200u, results(request, status.jsonPrimitive.content, fields).toString())
        }
        val body = answer["body"]!!
        val text = if (body is JsonPrimitive && body.isString) body.content else body.toString()
        TransportAnswer((answer["status"]?.jsonPrimitive?.int ?: 200).toUShort(), text)
    }

    private fun plainly(kind: String, request: JsonObject): TransportAnswer = when (kind) {
        "push" -> TransportAnswer(200u, results(request, "applied", JsonObject(emptyMap())).toString())
        "pull" -> TransportAnswer(
            200u, """{"items":[],"nextCursor":null,"hasMore":false,"lastReconciledWriteIds":{}}"""
        )
        "reconcile" -> TransportAnswer(200u, request.toString())
        else -> TransportAnswer(404u, """{"error":"the script has no answer","code":"not_found"}""")
    }

    private fun results(request: JsonObject, status: String, fields: JsonObject) = buildJsonObject {
        put("clientId", request["clientId"]!!)
        putJsonArray("results") {
            for (operation in request["operations"]!!.jsonArray) addJsonObject {
                put("opId", operation.jsonObject["opId"]!!)
                put("status", status)
                fields.forEach { (name, value) -> put(name, value) }
            }
        }
    }
}

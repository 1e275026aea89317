// What Kotlin has for streams and cancellation, around what UniFFI writes.
package vfssync

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

private fun <T : Any> values(next: suspend () -> T?): Flow<T> = flow { while (true) emit(next() ?: break) }

/** The changes, until the stream or the client ends. */
fun ChangeStream.asFlow(): Flow<TreeChange> = values { next() }

/** The events, until the stream or the client ends. */
fun EventStream.asFlow(): Flow<SyncEvent> = values { next() }

/** The states, until the stream or the client ends. */
fun SyncStateStream.asFlow(): Flow<SyncState> = values { next() }

/** The progress, until the stream or the client ends. */
fun ProgressStream.asFlow(): Flow<Progress> = values { next() }

/** The children, until the stream or the client ends. */
fun ChildrenStream.asFlow(): Flow<List<Child>> = values { next() }

/** The differences, until the stream or the client ends. */
fun ResultStream.asFlow(): Flow<ResultChange> = values { next() }

/** The bytes in chunks of at most 256 KiB. */
fun Content.asFlow(): Flow<ByteArray> = values { read().takeIf { it.isNotEmpty() } }

// What Swift has for streams and cancellation, around what UniFFI writes.
import Foundation

/// The values of a stream, until it or the client ends, or the task is cancelled.
public struct StreamIterator<Value: Sendable>: AsyncIteratorProtocol {
    let read: (Cancellation) async throws -> Value?

    public mutating func next() async throws -> Value? {
        let read = self.read
        return try await cancellable { try await read($0) }
    }
}

/// Runs calls that are cancelled with the task: they fail with `VfsSyncError.Cancelled`.
public func cancellable<Value>(
    _ calls: (Cancellation) async throws -> Value
) async throws -> Value {
    let cancellation = Cancellation()
    return try await withTaskCancellationHandler {
        try await calls(cancellation)
    } onCancel: {
        cancellation.cancel()
    }
}

extension ChangeStream: AsyncSequence {
    public typealias Element = TreeChange
    public func makeAsyncIterator() -> StreamIterator<TreeChange> { .init { try await self.next(cancel: $0) } }
}

extension EventStream: AsyncSequence {
    public typealias Element = SyncEvent
    public func makeAsyncIterator() -> StreamIterator<SyncEvent> { .init { try await self.next(cancel: $0) } }
}

extension SyncStateStream: AsyncSequence {
    public typealias Element = SyncState
    public func makeAsyncIterator() -> StreamIterator<SyncState> { .init { try await self.next(cancel: $0) } }
}

extension ProgressStream: AsyncSequence {
    public typealias Element = Progress
    public func makeAsyncIterator() -> StreamIterator<Progress> { .init { try await self.next(cancel: $0) } }
}

extension ChildrenStream: AsyncSequence {
    public typealias Element = [Child]
    public func makeAsyncIterator() -> StreamIterator<[Child]> { .init { try await self.next(cancel: $0) } }
}

extension ResultStream: AsyncSequence {
    public typealias Element = ResultChange
    public func makeAsyncIterator() -> StreamIterator<ResultChange> { .init { try await self.next(cancel: $0) } }
}

extension Content: AsyncSequence {
    /// Bytes, at most 256 KiB at a time.
    public typealias Element = Data
    public func makeAsyncIterator() -> StreamIterator<Data> {
        .init { _ in
            let bytes = try await self.read()
            return bytes.isEmpty ? nil : bytes
        }
    }
}

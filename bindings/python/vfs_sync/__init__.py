"""A local-first virtual file system: a durable replica of a user's tree that converges with the user's
other devices. `Client` blocks, `AsyncClient` is for asyncio."""

from ._base import Batch, Transport, TransportCall
from .aio import AsyncClient, AsyncContent, AsyncContentWriter, AsyncSubscription
from .client import Client, Content, ContentWriter, Subscription
from .errors import GuardrailViolationError, VfsSyncError, Violation
from .values import (
    Child,
    Found,
    Grant,
    Node,
    NodeContent,
    Outstanding,
    Principal,
    ResultChange,
    ShownItem,
    Status,
    StoredContent,
    SyncReport,
    SyncState,
    TransportAnswer,
    TreeChange,
    TreeEntry,
)

__all__ = [name for name in globals() if not name.startswith("_") and name not in ("aio", "client", "errors", "values")]

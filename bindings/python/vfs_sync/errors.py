"""Failures of calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Callable, Literal, Mapping, TypeVar

from . import _native

T = TypeVar("T")

ErrorCode = Literal[
    "violation",
    "network",
    "unauthorized",
    "wrongUser",
    "rematerializationRequired",
    "writeIdsAhead",
    "tooLarge",
    "invalidAddress",
    "refused",
    "malformedResponse",
    "unknownItem",
    "unknownPath",
    "cycle",
    "changed",
    "notPermitted",
    "otherTree",
    "invalid",
    "noContent",
    "wrongContent",
    "notDeclined",
    "unknownRejected",
    "inUse",
    "newerReplica",
    "olderReplica",
    "corruptReplica",
    "replicaExists",
    "noReplica",
    "storage",
    "io",
    "stopped",
    "restoredDuringRebuild",
    "cancelled",
    "closed",
    "panicked",
]
"""The kind of a `VfsSyncError`."""


@dataclass(frozen=True)
class Violation:
    """A violated guardrail: the server broke the protocol, or an imported state contradicts itself."""

    stage: str
    code: str
    signature: str
    message: str
    details: Mapping[str, Any]


class VfsSyncError(Exception):
    """The reason why a call failed. Unless its description says otherwise, the call changed nothing.

    `code` is the kind of the failure, such as `unknownItem` or `network`; `details` has its values by
    name; `transient` is true if the same call may succeed later without intervention.
    """

    def __init__(
        self, code: ErrorCode, message: str, details: Mapping[str, Any] = {}, transient: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        self.transient = transient

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self), self.details, self.transient)


class GuardrailViolationError(VfsSyncError):
    """A call that ended in a violated guardrail. The client has stopped, and applied nothing of it."""

    def __init__(self, violation: Violation) -> None:
        super().__init__("violation", violation.message, violation.details)
        self.violation = violation

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.violation,)

    @property
    def signature(self) -> str:
        """`stage:code`, the name by which the runbook lists the violation."""
        return self.violation.signature

    @property
    def stage(self) -> str:
        return self.violation.stage


def invalid(message: str) -> VfsSyncError:
    """Makes the error of an argument that is not valid."""
    return VfsSyncError("invalid", message)


def violation_of(failure: Mapping[str, Any]) -> Violation:
    stage, _, code = failure["signature"].partition(":")
    return Violation(stage, code, failure["signature"], failure["message"], failure["details"])


def converted(error: BaseException) -> BaseException:
    """Converts what the native part raises."""
    if not isinstance(error, _native.NativeError):
        return error
    failure = json.loads(error.args[0])
    if failure["code"] == "violation":
        return GuardrailViolationError(violation_of(failure))
    return VfsSyncError(failure["code"], failure["message"], failure["details"], failure["transient"])


def checked(call: Callable[..., T], *arguments: Any) -> T:
    try:
        return call(*arguments)
    except _native.NativeError as error:
        raise converted(error) from None

//! The failure that ends a command: a kind, a sentence, and the next step.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use vfs_sync_client::{ClientError, TransportError, Violation};
use vfs_sync_core::runbook;
use vfs_sync_core::wire::code;

use crate::args::TOKEN_VARIABLE;
use crate::escape::escaped;

/// The kind of a failure, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// A failure without a more specific kind.
    Failed,
    /// The named thing does not exist.
    NotFound,
    /// The named thing already exists.
    Exists,
    /// The local replica or a given file is damaged or has a newer version.
    Corrupt,
    /// The command line is wrong.
    Usage,
    /// A guardrail was violated, or the client is stopped.
    Guardrail,
    /// The server cannot be reached, or gives no answer.
    Network,
    /// There is no token, or the server rejects it.
    Auth,
    /// The command succeeded except for the problems that it reported.
    Partial,
    /// Ctrl-C or SIGTERM stopped the command.
    Interrupted,
    /// The reader of the output has gone.
    BrokenPipe,
}

impl Kind {
    /// Returns the exit code of the process.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::NotFound | Self::Exists | Self::Corrupt => 1,
            Self::Usage => 2,
            Self::Guardrail => 3,
            Self::Network | Self::Auth => 4,
            Self::Partial => 5,
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
        }
    }
}

/// The reason why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// The error as one sentence.
    pub(crate) message: String,
    /// The next step for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    /// The `stage:code` signature of a guardrail violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub(crate) details: serde_json::Map<String, serde_json::Value>,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            signature: None,
            details: serde_json::Map::new(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Creates the failure of a device that the server serves no longer.
    fn denied(code: &str, message: String) -> Self {
        let hint = match code {
            code::DEVICE_REVOKED => {
                "everything on this device stays, and so does its queue; to synchronise this machine \
                 again create another replica with `vfs-sync init`: see --replica"
            }
            code::USER_DELETED => {
                "everything on this device stays, and so does its queue; if it was a mistake, the \
                 server's operator can allow the user again with `vfs-sync admin users allow`"
            }
            _ => {
                "everything on this device stays, and so does its queue; once the server's operator \
                 has enabled the user again, run `vfs-sync sync`"
            }
        };
        Self::new(Kind::Auth, message).hint(hint)
    }

    /// Adds the command that explains a signature or code to the hint, if the runbook has it.
    pub(crate) fn explained(mut self, key: &str) -> Self {
        if let Some(command) = explain_command(key) {
            let line = format!("`{command}` says what it means");
            self.hint = Some(match self.hint {
                Some(hint) => format!("{hint}\n{line}"),
                None => line,
            });
        }
        self
    }

    /// Creates a function that converts an I/O error into a failure of `what`.
    pub(crate) fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |error| match error.kind() {
            std::io::ErrorKind::NotFound => Self::new(Kind::NotFound, format!("{what}: {error}")),
            std::io::ErrorKind::AlreadyExists => {
                Self::new(Kind::Exists, format!("{what}: {error}"))
            }
            _ => Self::failed(format!("{what}: {error}")),
        }
    }

    /// Converts an error of standard output into a failure.
    pub(crate) fn output(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Kind::BrokenPipe,
            _ => Kind::Failed,
        };
        Self::new(kind, format!("cannot write the output: {error}"))
    }

    /// Formats the failure for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}", escaped(&self.message));
        if let Some(signature) = &self.signature {
            text.push_str(&format!("\n  guardrail: {}", escaped(signature)));
        }
        for (field, value) in &self.details {
            text.push_str(&format!("\n  {}: {}", escaped(field), escaped(&value.to_string())));
        }
        if let Some(hint) = &self.hint {
            for line in hint.lines() {
                text.push_str(&format!("\n  hint: {}", escaped(line)));
            }
        }
        text
    }
}

/// Returns the command that explains a signature or code; `None` if the runbook does not have it.
pub(crate) fn explain_command(key: &str) -> Option<String> {
    runbook::entry(key).map(|entry| format!("vfs-sync explain {}", entry.key))
}

const TRIAGE: &str = "`vfs-sync doctor --retry` retries once, with the state exported before and after; \
                      by hand: save the output of `vfs-sync state export`, then retry once";

const REBUILD: &str = "rebuild the replica with `vfs-sync rematerialise`; queued operations \
                       are kept";

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        let of = |kind| Self::new(kind, message.clone());
        match error {
            ClientError::Violation(violation) => {
                let hint = match &*violation {
                    Violation::RematerializationRequired { .. } => REBUILD,
                    _ => TRIAGE,
                };
                Self {
                    signature: Some(violation.signature()),
                    details: violation.details(),
                    ..Self::new(Kind::Guardrail, violation.message())
                        .hint(hint)
                        .explained(&violation.signature())
                }
            }
            ClientError::Transport(error) => error.into(),
            ClientError::UnknownItem(_)
            | ClientError::UnknownPath(_)
            | ClientError::UnknownRejected(_) => of(Kind::NotFound),
            ClientError::WrongContent { .. } => of(Kind::Failed).hint(
                "the server's copy is damaged, or something on the path to it changes bytes: its \
                 operator can check with `vfs-sync blobs check --digests`",
            ),
            ClientError::NotPermitted { .. } => of(Kind::Failed).hint(
                "its owner, or a user with admin access, can grant you more: see `vfs-sync shares PATH`",
            ),
            ClientError::InUse(_) => {
                of(Kind::Failed).hint("wait for the other command, or name another with --replica")
            }
            ClientError::NewerReplica { .. } => of(Kind::Corrupt),
            ClientError::CorruptReplica { .. } => of(Kind::Corrupt).hint(
                "restore the replica from a copy, or move it away and create a new one with \
                 `vfs-sync init` and `vfs-sync sync`\n`vfs-sync doctor` says what can be saved",
            ),
            ClientError::ReplicaExists(_) | ClientError::NoReplica(_) => of(Kind::Exists),
            ClientError::Stopped(reason) if reason.signature == code::WRONG_USER => of(Kind::Auth)
                .hint(format!(
                    "put a token of the replica's user into {TOKEN_VARIABLE} or the file given to \
                     `init --token-file`, then start again"
                ))
                .explained(&reason.signature),
            ClientError::Stopped(reason)
                if [code::DEVICE_REVOKED, code::USER_DISABLED, code::USER_DELETED]
                    .contains(&&*reason.signature) =>
            {
                Self::denied(&reason.signature, message).explained(&reason.signature)
            }
            ClientError::Stopped(reason) => {
                let failure = of(Kind::Guardrail).hint(TRIAGE).explained(&reason.signature);
                Self { signature: Some(reason.signature), ..failure }
            }
            ClientError::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
                of(Kind::BrokenPipe)
            }
            ClientError::Storage(_) | ClientError::Io { .. } => {
                of(Kind::Failed).hint("check whether the disk is full or read-only")
            }
            _ => of(Kind::Failed),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<vfs_sync_folder::Error> for Failure {
    fn from(error: vfs_sync_folder::Error) -> Self {
        use vfs_sync_folder::Error as E;
        let message = error.to_string();
        match error {
            E::Client(error) => error.into(),
            E::Io { what, source } => Self::io(what)(source),
            E::DiskFull { .. } => Self::failed(message)
                .hint("written files stay; the same command resumes from there"),
            E::Busy(_) => {
                Self::failed(message).hint("wait until it ends, or choose another directory")
            }
            E::NotImported(_) => {
                Self::failed(message).hint("if its disk is not mounted, mount it")
            }
            E::Replaced(_) => Self::failed(message).hint(
                "if its disk is not mounted, mount it; to import it as a new directory, import it without \
                 --delete; to delete in the tree what it lacks, add --yes",
            ),
            E::Caller(error) => match error.downcast::<Self>() {
                Ok(failure) => *failure,
                Err(_) => Self::failed(message),
            },
            _ => Self::failed(message),
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        let key = error.key();
        Self::of_transport(error).explained(&key)
    }
}

impl Failure {
    fn of_transport(error: TransportError) -> Self {
        let message = error.to_string();
        match error {
            TransportError::Network { .. } => Self::new(Kind::Network, message).hint(
                "changes stay in the queue; run `vfs-sync sync` again when the server is \
                 reachable\n`vfs-sync doctor` finds the step at which the way to it ends",
            ),
            TransportError::Unauthorized(_) => Self::new(Kind::Auth, message).hint(
                "sign in with `vfs-sync login`, or put a fresh token into VFS_SYNC_TOKEN or the file \
                 given to `init --token-file`",
            ),
            TransportError::WrongUser { expected, actual } => {
                let mut failure = Self::new(Kind::Auth, message).hint(format!(
                    "put a token of {expected} into {TOKEN_VARIABLE} or the file given to `init \
                     --token-file`; for another user's tree create another replica: see --replica"
                ));
                let actual = actual.map_or(Value::Null, |actual| actual.as_str().into());
                failure.details.insert("expected".into(), expected.as_str().into());
                failure.details.insert("actual".into(), actual);
                failure
            }
            TransportError::Denied { code, .. } => Self::denied(&code, message),
            TransportError::RematerializationRequired { .. } => {
                Self::new(Kind::Guardrail, message).hint(REBUILD)
            }
            // A content that the store cannot return; one that it cannot accept waits instead.
            TransportError::Refused { ref code, ref details, .. }
                if code == code::BLOB_STORE_ERROR =>
            {
                Self { details: details.clone(), ..Self::failed(message) }
                    .hint("the server's operator can check with `vfs-sync blobs check`")
            }
            TransportError::Refused { ref code, ref details, .. } if error.waits() => {
                let repair = details.get("repair").and_then(Value::as_str);
                let hint = match repair {
                    Some(repair) => format!("the server's operator can repair it with `{repair}`"),
                    None if code == code::QUOTA_EXCEEDED => {
                        "changes stay in the queue, and are sent once there is room: the owner of \
                         the tree can free some with `vfs-sync trash empty`, and the server's \
                         operator can raise the limit"
                            .to_owned()
                    }
                    None => "changes stay in the queue, and are sent once the server's operator \
                             has repaired it"
                        .to_owned(),
                };
                Self { details: details.clone(), ..Self::new(Kind::Partial, message).hint(hint) }
            }
            TransportError::Refused { status: 426, .. } => {
                Self::new(Kind::Failed, message).hint("use a newer vfs-sync")
            }
            TransportError::Refused { status: 403, .. } => Self::new(Kind::Auth, message)
                .hint("the token is valid but lacks the scope for this"),
            TransportError::MalformedResponse { .. } => Self::new(Kind::Guardrail, message)
                .hint("check that the address is that of a vfs-sync server: see `vfs-sync status`"),
            _ => Self::failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_put_escape_sequences_into_an_error() {
        let failure = Failure::failed("the server said \u{1b}]0;x\u{7}").hint("a\nb");
        assert_eq!(
            failure.text(),
            "error: the server said \\u{1b}]0;x\\u{7}\n  hint: a\n  hint: b"
        );
    }

    #[test]
    fn exit_codes_tell_the_network_from_a_broken_protocol() {
        assert_eq!(Failure::from(TransportError::network("x")).kind.exit_code(), 4);
        let stop = TransportError::RematerializationRequired {
            requested: None,
            oldest_available: None,
            history: None,
            epoch: None,
        };
        assert_eq!(Failure::from(stop).kind.exit_code(), 3);
    }
}

//! Credentials of devices, the keys that sign their access tokens, and sessions of the console.

use rusqlite::params;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::credential::{Credential, SigningKey};
use vfs_sync_core::server::session::ConsoleSession;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::{CredentialId, SecretHash};

use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Credentials;

impl Credentials for SqliteTransaction<'_> {
    async fn credential(&mut self, id: &CredentialId) -> Result<Option<Credential>> {
        let mut select = self.prepare(
            "SELECT id, user_id, client, generation, current, previous, made_at, used_at, ended_at \
             FROM credentials WHERE id = ?1",
        )?;
        let mut rows = select.query([id.to_string()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "credentials", key: id };
        let hash = |column| {
            let bytes = encoding::key_bytes(columns.bytes(column)?);
            bytes.ok_or_else(|| columns.malformed("a digest is not of 32 bytes"))
        };
        let previous = match columns.is_null(5)? {
            true => None,
            false => Some(SecretHash(hash(5)?)),
        };
        Ok(Some(Credential {
            id: *id,
            user: columns.parse(1)?,
            client: columns.parse(2)?,
            generation: columns.unsigned(3)?,
            current: SecretHash(hash(4)?),
            previous,
            made_at: columns.time(6)?,
            used_at: columns.time(7)?,
            ended_at: columns.optional_integer(8)?.map(|_| columns.time(8)).transpose()?,
        }))
    }

    async fn put_credential(&mut self, credential: &Credential, new: bool) -> Result<()> {
        let sql = if new {
            "INSERT INTO credentials (id, user_id, client, generation, current, previous, made_at, \
             used_at, ended_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        } else {
            "UPDATE credentials SET user_id = ?2, client = ?3, generation = ?4, current = ?5, \
             previous = ?6, made_at = ?7, used_at = ?8, ended_at = ?9 WHERE id = ?1"
        };
        self.prepare(sql)?.execute(params![
            credential.id.to_string(),
            credential.user.as_str(),
            credential.client.as_str(),
            encoding::signed(credential.generation),
            credential.current.0,
            credential.previous.map(|hash| hash.0),
            credential.made_at.as_millis(),
            credential.used_at.as_millis(),
            credential.ended_at.map(Timestamp::as_millis),
        ])?;
        Ok(())
    }

    async fn drop_credential(&mut self, user: &UserId, client: &ReplicaId) -> Result<bool> {
        let sql = "DELETE FROM credentials WHERE user_id = ?1 AND client = ?2";
        Ok(self.prepare(sql)?.execute(params![user.as_str(), client.as_str()])? > 0)
    }

    async fn count_credentials(&mut self, user: &UserId, enough: u64) -> Result<u64> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM credentials WHERE user_id = ?1 LIMIT ?2)";
        self.query_count(sql, params![user.as_str(), encoding::signed(enough)])
    }

    async fn drop_oldest_credential(&mut self, user: &UserId) -> Result<()> {
        let sql = "DELETE FROM credentials WHERE id = \
             (SELECT id FROM credentials WHERE user_id = ?1 ORDER BY used_at LIMIT 1)";
        self.prepare(sql)?.execute([user.as_str()])?;
        Ok(())
    }

    async fn signing_keys(&mut self) -> Result<Vec<SigningKey>> {
        let mut select = self.prepare(
            "SELECT id, secret, made_at FROM signing_keys WHERE made_at >= ?1 \
             ORDER BY made_at DESC",
        )?;
        let mut rows = select.query([i64::MIN])?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next()? {
            let id: String = row.get(0)?;
            let columns = Columns { row, table: "signing_keys", key: &id };
            let secret = encoding::key_bytes(columns.bytes(1)?);
            let secret = secret.ok_or_else(|| columns.malformed("secret is not of 32 bytes"))?;
            let made_at = columns.time(2)?;
            keys.push(SigningKey { id, secret, made_at });
        }
        Ok(keys)
    }

    async fn put_signing_key(&mut self, key: &SigningKey) -> Result<()> {
        let sql = "INSERT INTO signing_keys (id, secret, made_at) VALUES (?1, ?2, ?3)";
        self.prepare(sql)?.execute(params![key.id, key.secret, key.made_at.as_millis()])?;
        Ok(())
    }

    async fn drop_signing_key(&mut self, id: &str) -> Result<()> {
        self.prepare("DELETE FROM signing_keys WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    async fn session(&mut self, id: &str) -> Result<Option<ConsoleSession>> {
        let mut select = self.prepare(
            "SELECT id, made_by, sealed, made_at, expires_at FROM console_sessions WHERE id = ?1",
        )?;
        let mut rows = select.query([id])?;
        rows.next()?.map(session).transpose()
    }

    async fn sessions(&mut self, at_most: u32) -> Result<Vec<ConsoleSession>> {
        let mut select = self.prepare(
            "SELECT id, made_by, sealed, made_at, expires_at FROM console_sessions \
             WHERE made_at >= ?1 ORDER BY made_at DESC LIMIT ?2",
        )?;
        let mut rows = select.query(params![i64::MIN, at_most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(session(row)?);
        }
        Ok(found)
    }

    async fn put_session(&mut self, session: &ConsoleSession) -> Result<()> {
        let sql = "INSERT INTO console_sessions (id, made_by, sealed, made_at, expires_at) \
             VALUES (?1, ?2, ?3, ?4, ?5)";
        self.prepare(sql)?.execute(params![
            session.id,
            session.by,
            session.sealed,
            session.made_at.as_millis(),
            session.expires_at.as_millis(),
        ])?;
        Ok(())
    }

    async fn drop_session(&mut self, id: &str) -> Result<bool> {
        Ok(self.prepare("DELETE FROM console_sessions WHERE id = ?1")?.execute([id])? > 0)
    }

    async fn drop_ended_sessions(&mut self, now: Timestamp, at_most: u32) -> Result<u64> {
        let sql = "DELETE FROM console_sessions WHERE id IN \
             (SELECT id FROM console_sessions WHERE expires_at <= ?1 LIMIT ?2)";
        Ok(self.prepare(sql)?.execute(params![now.as_millis(), at_most])? as u64)
    }
}

fn session(row: &rusqlite::Row<'_>) -> Result<ConsoleSession> {
    let id: String = row.get(0)?;
    let columns = Columns { row, table: "console_sessions", key: &id };
    let (by, sealed) = (row.get(1)?, columns.bytes(2)?.to_vec());
    let (made_at, expires_at) = (columns.time(3)?, columns.time(4)?);
    Ok(ConsoleSession { by, sealed, made_at, expires_at, id: id.clone() })
}

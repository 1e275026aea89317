//! Credentials of devices, the keys that sign their access tokens, and sessions of the console.

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::credential::{Credential, SigningKey};
use vfs_sync_core::server::session::ConsoleSession;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::{CredentialId, SecretHash};

use crate::encoding;
use crate::error::{Result, StoreError};
use crate::postgres::rows::Columns;
use crate::postgres::transaction::PostgresTransaction;
use crate::topics::Credentials;

impl Credentials for PostgresTransaction<'_> {
    async fn credential(&mut self, id: &CredentialId) -> Result<Option<Credential>> {
        let sql = if self.only_reads {
            "SELECT id, user_id, client, generation, current, previous, made_at, used_at, ended_at \
             FROM credentials WHERE id = $1"
        } else {
            "SELECT id, user_id, client, generation, current, previous, made_at, used_at, ended_at \
             FROM credentials WHERE id = $1 FOR UPDATE"
        };
        let Some(row) = self.query_opt(sql, &[&id.to_string()]).await? else { return Ok(None) };
        let columns = Columns { row: &row, table: "credentials", key: id };
        let wrong = || columns.malformed("a digest is not of 32 bytes");
        let hash = |bytes: &[u8]| encoding::key_bytes(bytes).map(SecretHash).ok_or_else(wrong);
        let previous: Option<&[u8]> = columns.get(5)?;
        Ok(Some(Credential {
            id: *id,
            user: columns.parse(1)?,
            client: columns.parse(2)?,
            generation: columns.unsigned(3)?,
            current: hash(columns.get(4)?)?,
            previous: previous.map(hash).transpose()?,
            made_at: columns.time(6)?,
            used_at: columns.time(7)?,
            ended_at: columns.get::<Option<i64>>(8)?.map(|_| columns.time(8)).transpose()?,
        }))
    }

    async fn put_credential(&mut self, credential: &Credential, new: bool) -> Result<()> {
        let sql = if new {
            "INSERT INTO credentials (id, user_id, client, generation, current, previous, made_at, \
             used_at, ended_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"
        } else {
            "UPDATE credentials SET user_id = $2, client = $3, generation = $4, current = $5, \
             previous = $6, made_at = $7, used_at = $8, ended_at = $9 WHERE id = $1"
        };
        let previous = credential.previous.map(|hash| hash.0.to_vec());
        let written = self
            .execute(
                sql,
                &[
                    &credential.id.to_string(),
                    &credential.user.as_str(),
                    &credential.client.as_str(),
                    &encoding::signed(credential.generation),
                    &credential.current.0.as_slice(),
                    &previous,
                    &credential.made_at.as_millis(),
                    &credential.used_at.as_millis(),
                    &credential.ended_at.map(Timestamp::as_millis),
                ],
            )
            .await?;
        // The same replica signed in by another call: this one has to begin with its row.
        if written == 0 { Err(StoreError::Conflict) } else { Ok(()) }
    }

    async fn drop_credential(&mut self, user: &UserId, client: &ReplicaId) -> Result<bool> {
        let sql = "DELETE FROM credentials WHERE user_id = $1 AND client = $2";
        Ok(self.execute(sql, &[&user.as_str(), &client.as_str()]).await? > 0)
    }

    async fn count_credentials(&mut self, user: &UserId, enough: u64) -> Result<u64> {
        let sql = "SELECT count(*) FROM \
             (SELECT 1 FROM credentials WHERE user_id = $1 LIMIT $2) AS present";
        self.query_count(sql, &[&user.as_str(), &encoding::signed(enough)]).await
    }

    async fn drop_oldest_credential(&mut self, user: &UserId) -> Result<()> {
        let sql = "DELETE FROM credentials WHERE id = \
             (SELECT id FROM credentials WHERE user_id = $1 ORDER BY used_at LIMIT 1)";
        self.execute(sql, &[&user.as_str()]).await?;
        Ok(())
    }

    async fn signing_keys(&mut self) -> Result<Vec<SigningKey>> {
        let sql = "SELECT id, secret, made_at FROM signing_keys WHERE made_at >= $1 \
             ORDER BY made_at DESC";
        let rows = self.query(sql, &[&i64::MIN]).await?;
        let read = |row| {
            let id: String = tokio_postgres::Row::try_get(row, 0)?;
            let columns = Columns { row, table: "signing_keys", key: &id };
            let secret = encoding::key_bytes(columns.get(1)?);
            let secret = secret.ok_or_else(|| columns.malformed("secret is not of 32 bytes"))?;
            let made_at = columns.time(2)?;
            Ok(SigningKey { id, secret, made_at })
        };
        rows.iter().map(read).collect()
    }

    async fn put_signing_key(&mut self, key: &SigningKey) -> Result<()> {
        let sql = "INSERT INTO signing_keys (id, secret, made_at) VALUES ($1, $2, $3)";
        let made_at = key.made_at.as_millis();
        self.execute(sql, &[&key.id, &key.secret.as_slice(), &made_at]).await?;
        Ok(())
    }

    async fn drop_signing_key(&mut self, id: &str) -> Result<()> {
        self.execute("DELETE FROM signing_keys WHERE id = $1", &[&id]).await?;
        Ok(())
    }

    async fn session(&mut self, id: &str) -> Result<Option<ConsoleSession>> {
        let sql = "SELECT id, made_by, sealed, made_at, expires_at FROM console_sessions \
             WHERE id = $1";
        self.query_opt(sql, &[&id]).await?.as_ref().map(session).transpose()
    }

    async fn sessions(&mut self, at_most: u32) -> Result<Vec<ConsoleSession>> {
        let sql = "SELECT id, made_by, sealed, made_at, expires_at FROM console_sessions \
             WHERE made_at >= $1 ORDER BY made_at DESC LIMIT $2";
        let rows = self.query(sql, &[&i64::MIN, &i64::from(at_most)]).await?;
        rows.iter().map(session).collect()
    }

    async fn put_session(&mut self, session: &ConsoleSession) -> Result<()> {
        let sql = "INSERT INTO console_sessions (id, made_by, sealed, made_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5)";
        let (made_at, expires_at) = (session.made_at.as_millis(), session.expires_at.as_millis());
        let sealed = session.sealed.as_slice();
        self.execute(sql, &[&session.id, &session.by, &sealed, &made_at, &expires_at]).await?;
        Ok(())
    }

    async fn drop_session(&mut self, id: &str) -> Result<bool> {
        Ok(self.execute("DELETE FROM console_sessions WHERE id = $1", &[&id]).await? > 0)
    }

    async fn drop_ended_sessions(&mut self, now: Timestamp, at_most: u32) -> Result<u64> {
        let sql = "DELETE FROM console_sessions WHERE id IN \
             (SELECT id FROM console_sessions WHERE expires_at <= $1 LIMIT $2)";
        self.execute(sql, &[&now.as_millis(), &i64::from(at_most)]).await
    }
}

fn session(row: &tokio_postgres::Row) -> Result<ConsoleSession> {
    let id: String = row.try_get(0)?;
    let columns = Columns { row, table: "console_sessions", key: &id };
    let sealed: &[u8] = columns.get(2)?;
    let (by, sealed) = (columns.get(1)?, sealed.to_vec());
    let (made_at, expires_at) = (columns.time(3)?, columns.time(4)?);
    Ok(ConsoleSession { by, sealed, made_at, expires_at, id: id.clone() })
}

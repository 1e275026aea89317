//! Calls about devices and, for operators, users.

use http::{Method, StatusCode};
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::user::UserLimits;
use vfs_sync_core::wire::device::{
    AllowUserResponse, DeleteUserRequest, DeletionView, DevicesResponse, RenameDevice, UserView,
    UsersResponse,
};

use super::{HttpCall, HttpTransport, answer, malformed};
use crate::transport::error::Result;

impl HttpTransport {
    /// Lists a page of the user's devices, from `cursor` on.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with `404` from a server without devices.
    pub async fn devices(&self, cursor: Option<&str>) -> Result<DevicesResponse> {
        let mut url = self.url(&["devices"]);
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        self.fetch(self.get("devices", url)).await
    }

    /// Gives a device of the user's a name.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with `404` for an unknown device.
    pub async fn rename_device(&self, client: &ReplicaId, name: &str) -> Result<()> {
        let body = RenameDevice { name: name.to_owned() };
        self.done(self.post("renameDevice", &["devices", client.as_str()], &body)).await
    }

    /// Revokes a device of the user's, for ever; the call may be repeated.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with `404` for an unknown device.
    pub async fn revoke_device(&self, client: &ReplicaId) -> Result<()> {
        let url = self.url(&["devices", client.as_str()]);
        self.done(HttpCall { method: Method::DELETE, ..self.get("revokeDevice", url) }).await
    }

    /// Lists a page of the devices of one user or of all. It needs a token with the scope
    /// `vfs:admin`, as the following calls do.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with `403` without the scope.
    pub async fn devices_of(
        &self,
        user: Option<&UserId>,
        cursor: Option<&str>,
    ) -> Result<DevicesResponse> {
        let mut url = self.url(&["admin", "devices"]);
        for (name, value) in [("userId", user.map(UserId::as_str)), ("cursor", cursor)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        self.fetch(self.get("devicesOf", url)).await
    }

    /// Revokes a device of any user.
    ///
    /// # Errors
    /// As [`Self::devices_of`]; `404` for an unknown device.
    pub async fn revoke_device_of(&self, user: &UserId, client: &ReplicaId) -> Result<()> {
        let url = self.url(&["admin", "devices", user.as_str(), client.as_str()]);
        self.done(HttpCall { method: Method::DELETE, ..self.get("revokeDeviceOf", url) }).await
    }

    /// Lists a page of users, after `after`.
    ///
    /// # Errors
    /// As [`Self::devices_of`].
    pub async fn users(&self, after: Option<&UserId>) -> Result<UsersResponse> {
        let mut url = self.url(&["admin", "users"]);
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after.as_str());
        }
        let page: UsersResponse = self.fetch(self.get("users", url)).await?;
        if page.users.is_empty() && page.has_more {
            return Err(malformed("users", "users", "do not continue"));
        }
        Ok(page)
    }

    /// Returns a user's usage and limits.
    ///
    /// # Errors
    /// As [`Self::devices_of`]; `404` for an unknown user.
    pub async fn user(&self, user: &UserId) -> Result<UserView> {
        self.fetch(self.get("user", self.url(&["admin", "users", user.as_str()]))).await
    }

    /// Replaces the limits of a user's own.
    ///
    /// # Errors
    /// As [`Self::devices_of`].
    pub async fn limit_user(&self, user: &UserId, limits: &UserLimits) -> Result<()> {
        let path = ["admin", "users", user.as_str(), "limits"];
        self.done(self.post("limitUser", &path, limits)).await
    }

    /// Enables a user, or disables the user; the call may be repeated.
    ///
    /// # Errors
    /// As [`Self::devices_of`].
    pub async fn enable_user(&self, user: &UserId, enabled: bool) -> Result<()> {
        let step = if enabled { "enable" } else { "disable" };
        let url = self.url(&["admin", "users", user.as_str(), step]);
        self.done(HttpCall { method: Method::POST, ..self.get("enableUser", url) }).await
    }

    /// Deletes a user with everything that the user has, after `wait_seconds`; seven days without
    /// it. A repetition changes the wait, until the removal has begun.
    ///
    /// # Errors
    /// As [`Self::devices_of`]; `404` for an unknown user.
    pub async fn delete_user(
        &self,
        user: &UserId,
        wait_seconds: Option<u64>,
    ) -> Result<DeletionView> {
        let path = ["admin", "users", user.as_str(), "delete"];
        let request = DeleteUserRequest { wait_seconds };
        self.fetch(self.post("deleteUser", &path, &request)).await
    }

    /// Allows a user who was deleted, or calls off a deletion that has not begun.
    ///
    /// # Errors
    /// As [`Self::devices_of`]; `409` while the user is being removed.
    pub async fn allow_user(&self, user: &UserId) -> Result<AllowUserResponse> {
        let url = self.url(&["admin", "users", user.as_str(), "allow"]);
        self.fetch(HttpCall { method: Method::POST, ..self.get("allowUser", url) }).await
    }

    /// Sends a call that is answered by `204`.
    async fn done(&self, call: HttpCall) -> Result<()> {
        let response = answer::check_status(call.name, self.send(&call).await?).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(malformed(call.name, "status", "is not 204"));
        }
        Ok(())
    }
}

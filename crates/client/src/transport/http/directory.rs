//! Calls about principals: groups and organizations, their members, and the principals that the
//! server knows.

use http::{Method, StatusCode};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::{BlocksResponse, GroupsResponse, KnownResponse, MembersResponse};

use super::{HttpCall, HttpTransport, answer, malformed};
use crate::transport::error::Result;

/// Returns the path step of a kind of group; a user has no members, and no such route.
const fn plural(kind: PrincipalType) -> &'static str {
    match kind {
        PrincipalType::User => "users",
        PrincipalType::Group => "groups",
        PrincipalType::Organization => "organizations",
    }
}

impl HttpTransport {
    /// Adds `member` to a group or an organization, or removes the member; the call may be
    /// repeated. It needs a token with the scope `vfs:admin`.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with status `403` without the scope.
    pub async fn set_member(
        &self,
        group: &Principal,
        member: &UserId,
        present: bool,
    ) -> Result<()> {
        let (kind, id) = (plural(group.kind), group.id.as_str());
        let url = self.url(&["admin", kind, id, "members", member.as_str()]);
        let method = if present { Method::PUT } else { Method::DELETE };
        let call = HttpCall { method, ..self.get("setMember", url) };
        let response = answer::check_status(call.name, self.send(&call).await?).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(malformed(call.name, "status", "is not 204"));
        }
        Ok(())
    }

    /// Lists up to `limit` (1 to 500) members of a group or an organization, ascending, after
    /// `after`. It needs a token with the scope `vfs:admin`.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with status `403` without the scope.
    pub async fn members(
        &self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<MembersResponse> {
        let mut url = self.url(&["admin", plural(group.kind), group.id.as_str(), "members"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after.as_str());
        }
        let page: MembersResponse = self.fetch(self.get("members", url)).await?;
        let goes_on = page.members.first() > after;
        if page.members.is_empty() && page.has_more || !page.members.is_empty() && !goes_on {
            return Err(malformed("members", "members", "do not continue"));
        }
        Ok(page)
    }

    /// Returns the groups and organizations that the user is a member of.
    ///
    /// # Errors
    /// As any call.
    pub async fn groups(&self) -> Result<GroupsResponse> {
        self.fetch(self.get("groups", self.url(&["groups"]))).await
    }

    /// Sets or clears a block of `owner`; the call may be repeated. While the block is set, the
    /// owner's grants to the user, or to a group of the user's, have no effect; the owner is not
    /// notified.
    ///
    /// # Errors
    /// [`TransportError::Refused`](crate::TransportError::Refused) with status `400` for the user's
    /// own id, or beyond [`MAX_BLOCKED_OWNERS`](vfs_sync_core::limits::MAX_BLOCKED_OWNERS); with `404` from a server
    /// without blocks.
    pub async fn set_block(&self, owner: &UserId, blocked: bool) -> Result<()> {
        let url = self.url(&["blocks", owner.as_str()]);
        let method = if blocked { Method::PUT } else { Method::DELETE };
        let call = HttpCall { method, ..self.get("setBlock", url) };
        let response = answer::check_status(call.name, self.send(&call).await?).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(malformed(call.name, "status", "is not 204"));
        }
        Ok(())
    }

    /// Returns the owners whom the user blocks.
    ///
    /// # Errors
    /// As any call.
    pub async fn blocks(&self) -> Result<BlocksResponse> {
        self.fetch(self.get("blocks", self.url(&["blocks"]))).await
    }

    /// Asks whether the server knows a principal: a user who has written something, or a group or
    /// organization that has members.
    ///
    /// # Errors
    /// As any call.
    pub async fn knows(&self, principal: &Principal) -> Result<bool> {
        let url = self.url(&["principals", principal.kind.as_str(), principal.id.as_str()]);
        let answer: KnownResponse = self.fetch(self.get("principal", url)).await?;
        Ok(answer.known)
    }
}

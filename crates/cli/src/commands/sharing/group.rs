//! Groups and organizations: `group`, for administrators and members.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::{PrincipalId, UserId};
use vfs_sync_core::limits::MAX_PULL_LIMIT;

use crate::args::{Global, Group, GroupAction};
use crate::error::Result;
use crate::escape::escaped;
use crate::output::Output;
use crate::{replica, shutdown};

fn principal(id: PrincipalId, organization: bool) -> Principal {
    let kind = if organization { PrincipalType::Organization } else { PrincipalType::Group };
    Principal { kind, id }
}

pub(in crate::commands) async fn group(
    global: &Global,
    args: Group,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let server = replica::server(global, args.server.as_deref(), args.token_file, None)?;
    let work = async {
        match args.action {
            GroupAction::Add(one) => {
                let group = principal(one.group, one.organization);
                server.set_member(&group, &one.user, true).await?;
                report(&output, &group, &one.user, true)
            }
            GroupAction::Remove(one) => {
                let group = principal(one.group, one.organization);
                server.set_member(&group, &one.user, false).await?;
                report(&output, &group, &one.user, false)
            }
            GroupAction::Members(of) => {
                let group = principal(of.group, of.organization);
                let mut members: Vec<UserId> = Vec::new();
                loop {
                    let page = server.members(&group, members.last(), MAX_PULL_LIMIT).await?;
                    members.extend(page.members);
                    if !page.has_more {
                        break;
                    }
                }
                if output.json {
                    let (kind, id) = (group.kind, &group.id);
                    return output.json(&json!({
                        "principalType": kind, "principalId": id, "members": members,
                    }));
                }
                members.iter().try_for_each(|member| output.text(escaped(member.as_str())))
            }
            GroupAction::Mine => {
                let mine = server.groups().await?;
                if output.json {
                    return output.json(&mine);
                }
                let of = |kind: PrincipalType, ids: &[PrincipalId]| {
                    ids.iter()
                        .try_for_each(|id| output.text(format!("{kind}:{}", escaped(id.as_str()))))
                };
                of(PrincipalType::Group, &mine.groups)?;
                of(PrincipalType::Organization, &mine.organizations)
            }
        }
    };
    shutdown::unless_stopped(&stop, work).await
}

fn report(output: &Output, group: &Principal, member: &UserId, present: bool) -> Result<()> {
    let (user, shown) = (escaped(member.as_str()), escaped(&group.to_string()));
    output.say(match present {
        true => format!("{user} is a member of {shown}"),
        false => format!("{user} is not a member of {shown}"),
    })?;
    let (kind, id) = (group.kind, &group.id);
    output.json(&json!({
        "principalType": kind, "principalId": id, "userId": member, "member": present,
    }))
}

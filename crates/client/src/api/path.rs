//! Paths of the tree: the user's own items, and separately those that others share.
//!
//! A path of the user's own begins with `/`; the items that `alice` shares are at
//! `shared:alice/<name>`. So a name chosen by somebody else is never found on a path of the user's
//! own.

use std::fmt;
use std::fmt::Write as _;

use vfs_sync_core::id::UserId;

/// The beginning of a path to shared items.
const SHARED: &str = "shared:";

/// The prefix of an owner's step whose id cannot be a path step unchanged. After it, `%XX` stands
/// for a byte, as in the names of `docs/cli.md`.
const ESCAPED: &str = "%raw%";

/// A place in the tree, identified by names.
///
/// Its text form is unambiguous: parsing the output of [`fmt::Display`] gives the same path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TreePath {
    /// A path from the top of the user's own tree; without steps, the top itself.
    Own(Vec<String>),
    /// `shared:`, the list of the owners who share something.
    Owners,
    /// `shared:<owner>/…`, a path among the items that `owner` shares; without steps, all of them.
    Shared {
        /// The user who owns the items.
        owner: UserId,
        /// The names below the owner.
        steps: Vec<String>,
    },
}

impl TreePath {
    /// Parses a path of either form. Empty steps are ignored, and a path that begins neither with
    /// `/` nor with `shared:` begins at the top of the user's own tree. Returns `None` if the owner
    /// is no valid user id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let steps = |text: &str| -> Vec<String> {
            text.split('/').filter(|step| !step.is_empty()).map(str::to_owned).collect()
        };
        let Some(rest) = text.strip_prefix(SHARED) else { return Some(Self::Own(steps(text))) };
        let mut steps = steps(rest);
        if steps.is_empty() {
            return Some(Self::Owners);
        }
        let owner = owner_of(&steps.remove(0))?;
        Some(Self::Shared { owner, steps })
    }

    /// Returns the names of the path, from its beginning.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        match self {
            Self::Own(steps) | Self::Shared { steps, .. } => steps,
            Self::Owners => &[],
        }
    }

    /// Returns the path without its last name, and that name; `None` if it has no names.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &str)> {
        let (last, above) = self.steps().split_last()?;
        let steps = above.to_vec();
        let parent = match self {
            Self::Own(_) | Self::Owners => Self::Own(steps),
            Self::Shared { owner, .. } => Self::Shared { owner: owner.clone(), steps },
        };
        Some((parent, last))
    }

    /// Returns the path with one more name; `None` under [`TreePath::Owners`], which contains only
    /// owners.
    #[must_use]
    pub fn join(&self, name: &str) -> Option<Self> {
        let mut longer = self.clone();
        match &mut longer {
            Self::Own(steps) | Self::Shared { steps, .. } => steps.push(name.to_owned()),
            Self::Owners => return None,
        }
        Some(longer)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(steps) if steps.is_empty() => f.write_char('/'),
            Self::Own(steps) => steps.iter().try_for_each(|step| write!(f, "/{step}")),
            Self::Owners => f.write_str(SHARED),
            Self::Shared { owner, steps } => {
                write!(f, "{SHARED}{}", owner_step(owner))?;
                steps.iter().try_for_each(|step| write!(f, "/{step}"))
            }
        }
    }
}

/// Returns an owner's id as one step of a path: unchanged, unless the id has a `/`, is `.` or `..`,
/// or looks like an escape itself. Different ids give different steps.
fn owner_step(owner: &UserId) -> String {
    let id = owner.as_str();
    let dots = matches!(id, "." | "..");
    if !dots && !id.contains('/') && !id.starts_with(ESCAPED) {
        return id.to_owned();
    }
    let mut step = ESCAPED.to_owned();
    for c in id.chars() {
        match c {
            '/' | '%' => step.push_str(if c == '/' { "%2F" } else { "%25" }),
            '.' if dots => step.push_str("%2E"),
            c => step.push(c),
        }
    }
    step
}

/// Returns the owner that a step of [`owner_step`] names.
fn owner_of(step: &str) -> Option<UserId> {
    let canonical = |owner: &UserId| owner_step(owner) == step;
    let Some(escaped) = step.strip_prefix(ESCAPED) else {
        return UserId::new(step).ok().filter(canonical);
    };
    let mut id = String::new();
    let mut parts = escaped.split('%');
    id.push_str(parts.next()?);
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        id.push(match code {
            "2F" => '/',
            "25" => '%',
            "2E" => '.',
            _ => return None,
        });
        id.push_str(rest);
    }
    UserId::new(&id).ok().filter(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(owner: &str, steps: &[&str]) -> TreePath {
        let steps = steps.iter().map(|&step| step.to_owned()).collect();
        TreePath::Shared { owner: UserId::new(owner).unwrap(), steps }
    }

    fn own(steps: &[&str]) -> TreePath {
        TreePath::Own(steps.iter().map(|&step| step.to_owned()).collect())
    }

    #[test]
    fn an_own_path_and_a_shared_one_are_told_apart_by_how_they_begin() {
        assert_eq!(TreePath::parse("/"), Some(own(&[])));
        assert_eq!(TreePath::parse("/a//b/"), Some(own(&["a", "b"])));
        assert_eq!(TreePath::parse("a"), Some(own(&["a"])));
        assert_eq!(TreePath::parse("/shared:bob/x"), Some(own(&["shared:bob", "x"])));
        assert_eq!(TreePath::parse("shared:"), Some(TreePath::Owners));
        assert_eq!(TreePath::parse("shared:bob/"), Some(shared("bob", &[])));
        assert_eq!(TreePath::parse("shared:bob/a/b"), Some(shared("bob", &["a", "b"])));
        assert_eq!(TreePath::parse("Shared:bob"), Some(own(&["Shared:bob"])));
    }

    #[test]
    fn an_owner_is_one_step_whatever_the_id_is() {
        for (id, step) in [
            ("bob", "bob"),
            ("auth0|x:1", "auth0|x:1"),
            ("100%", "100%"),
            (".", "%raw%%2E"),
            ("..", "%raw%%2E%2E"),
            ("../alice", "%raw%..%2Falice"),
            ("/", "%raw%%2F"),
            ("https://id.example/bob", "%raw%https:%2F%2Fid.example%2Fbob"),
            ("%raw%%2E%2E", "%raw%%25raw%25%252E%252E"),
        ] {
            let path = shared(id, &["x"]);
            assert_eq!(path.to_string(), format!("shared:{step}/x"));
            assert_eq!(TreePath::parse(&path.to_string()), Some(path));
        }
    }

    #[test]
    fn a_step_that_no_owner_has_leads_nowhere() {
        for step in
            ["%raw%bob", "%raw%%2f", "%raw%%41", "%raw%%2", "%raw%", "%raw%.%2E", " bob", ".", ".."]
        {
            assert_eq!(TreePath::parse(&format!("shared:{step}")), None, "{step}");
        }
    }

    #[test]
    fn a_path_is_parsed_back_and_split() {
        for path in [own(&[]), own(&["shared:bob"]), TreePath::Owners, shared("b", &["a", "c"])] {
            assert_eq!(TreePath::parse(&path.to_string()), Some(path));
        }
        assert_eq!(shared("b", &["a", "c"]).split(), Some((shared("b", &["a"]), "c")));
        assert_eq!(shared("b", &[]).split(), None);
        assert_eq!(own(&["a"]).split(), Some((own(&[]), "a")));
        assert_eq!(TreePath::Owners.join("bob"), None);
    }
}

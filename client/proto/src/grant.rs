//! Who somebody is and what was granted to him, as certificates and tokens say it.
//!
//! A certificate says it in the URIs of its subject's alternative names, all of one cluster:
//!
//! ```text
//! moso://CLUSTER/node/3                                  a node, and nothing else
//! moso://CLUSTER/user/anna                               a user, and optionally
//! moso://CLUSTER/group/higgs                             groups for which he may submit
//! moso://CLUSTER/role/worker:CERN,BNL                    roles
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Scheme of the URIs.
const SCHEME: &str = "moso://";
/// URIs of one certificate: groups and roles of one person.
pub const URIS_MAX: usize = 64;
/// Bytes of a user's or group's name: what an owner of a job may have.
pub const NAME_BYTES_MAX: usize = 256;

/// What a caller may do beyond reading.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Submits jobs under his own name.
    Submitter,
    /// Takes jobs of these queues; `*`: of all.
    Worker(Vec<String>),
    /// Steers all jobs of this group (PanDA's production role).
    Production(String),
    /// Does all of it, changes the cluster and copies it.
    Operator,
}

/// A role that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: there are submitter, worker:QUEUE,… (or worker:*), production:GROUP and operator")]
pub struct BadRole(String);

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        let bad = || BadRole(text.to_owned());
        match text.split_once(':') {
            None if text == "submitter" => Ok(Role::Submitter),
            None if text == "operator" => Ok(Role::Operator),
            Some(("worker", queues)) => {
                let queues: Vec<String> = queues.split(',').map(str::to_owned).collect();
                if queues.iter().all(|queue| is_name(queue)) { Ok(Role::Worker(queues)) } else { Err(bad()) }
            }
            Some(("production", group)) if is_name(group) => Ok(Role::Production(group.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Submitter => f.write_str("submitter"),
            Role::Worker(queues) => write!(f, "worker:{}", queues.join(",")),
            Role::Production(group) => write!(f, "production:{group}"),
            Role::Operator => f.write_str("operator"),
        }
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether this can name a user or a group: printable ASCII without spaces, so that it stands in a URI and in a log
/// line as it is.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A user with what was granted to him.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// His name.
    pub user: String,
    /// Groups for which he may submit.
    pub groups: Vec<String>,
    /// What else he may do.
    pub roles: Vec<Role>,
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A node, by its number.
    Node(u32),
    /// A user, or a worker.
    User(Grants),
}

/// A subject and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Name of the cluster.
    pub cluster: String,
    /// Who it is there.
    pub subject: Subject,
}

/// What is wrong with a certificate's names, for people.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate {0}")]
pub struct BadNames(String);

impl Named {
    /// Reads the URIs of a certificate.
    ///
    /// # Errors
    /// [`BadNames`] if they name nobody, more than one, or more than one cluster.
    pub fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Named, BadNames> {
        let bad = |text: String| Err(BadNames(text));
        let mut cluster: Option<&str> = None;
        let (mut nodes, mut users, mut grants) = (Vec::new(), Vec::new(), Grants::default());
        for (count, uri) in uris.filter(|uri| uri.starts_with(SCHEME)).enumerate() {
            if count >= URIS_MAX {
                return bad(format!("has more than {URIS_MAX} names"));
            }
            let mut parts = uri[SCHEME.len()..].splitn(3, '/');
            let (Some(of), Some(what), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
                return bad(format!("has the name {uri:?}, which is none of moso's"));
            };
            if *cluster.get_or_insert(of) != of {
                return bad("names more than one cluster".to_owned());
            }
            match (what, name.parse::<Role>()) {
                ("node", _) => nodes.push(name),
                ("user", _) if is_name(name) => users.push(name),
                ("group", _) if is_name(name) => grants.groups.push(name.to_owned()),
                ("role", Ok(role)) => grants.roles.push(role),
                _ => return bad(format!("has the name {uri:?}, which is none of moso's")),
            }
        }
        let Some(cluster) = cluster.map(str::to_owned) else {
            return bad(format!("names nobody: it has no name that begins with {SCHEME}"));
        };
        let subject = match (nodes.as_slice(), users.as_slice()) {
            ([node], []) if grants == Grants::default() => match node.parse() {
                Ok(number) if number > 0 => Subject::Node(number),
                _ => return bad(format!("names the node {node:?}, which is no number")),
            },
            ([], [user]) => Subject::User(Grants { user: (*user).to_owned(), ..grants }),
            _ => return bad("must name one node or one user".to_owned()),
        };
        Ok(Named { cluster, subject })
    }

    /// The URIs that say so.
    pub fn uris(&self) -> Vec<String> {
        let uri = |what: &str, name: &dyn fmt::Display| format!("{SCHEME}{}/{what}/{name}", self.cluster);
        match &self.subject {
            Subject::Node(number) => vec![uri("node", number)],
            Subject::User(Grants { user, groups, roles }) => {
                let groups = groups.iter().map(|group| uri("group", group));
                let roles = roles.iter().map(|role| uri("role", role));
                std::iter::once(uri("user", user)).chain(groups).chain(roles).collect()
            }
        }
    }
}

/// Who may be meant by tokens of this cluster, and who issues its own.
pub fn audience(cluster: &str) -> String {
    format!("{SCHEME}{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uris: &[&str]) -> Result<Named, BadNames> {
        Named::from_uris(uris.iter().copied())
    }

    #[test]
    fn names_come_back() {
        let roles = ["submitter", "worker:CERN,BNL", "worker:*", "production:/atlas/production", "operator"];
        let roles: Vec<Role> = roles.iter().map(|role| role.parse().unwrap()).collect();
        let grants = Grants { user: "anna@cern.ch".into(), groups: vec!["/atlas".into()], roles };
        for subject in [Subject::Node(3), Subject::User(grants)] {
            let named = Named { cluster: "prod".into(), subject };
            let uris = named.uris();
            assert_eq!(Named::from_uris(uris.iter().map(String::as_str)).unwrap(), named);
        }
        assert_eq!(read(&["https://else.where/", "moso://c/node/7"]).unwrap().subject, Subject::Node(7));
    }

    #[test]
    fn who_is_two_or_nobody_is_refused() {
        for uris in [
            &[][..],
            &["https://else.where/"],
            &["moso://c/node/3", "moso://c/user/anna"],
            &["moso://c/node/3", "moso://c/role/operator"],
            &["moso://c/user/anna", "moso://c/user/bob"],
            &["moso://c/user/anna", "moso://d/group/g"],
            &["moso://c/node/0"],
            &["moso://c/node/x"],
            &["moso://c/user/"],
            &["moso://c/role/operator"],
            &["moso://c/user/a", "moso://c/role/root"],
            &["moso://c"],
        ] {
            assert!(read(uris).is_err(), "{uris:?}");
        }
        let many: Vec<String> = (0..=URIS_MAX).map(|n| format!("moso://c/group/{n}")).collect();
        assert!(Named::from_uris(many.iter().map(String::as_str)).is_err());
    }

    #[test]
    fn roles_are_as_written() {
        assert_eq!("worker:A,B".parse(), Ok(Role::Worker(vec!["A".into(), "B".into()])));
        for bad in ["", "worker", "worker:", "worker:A,,B", "production:", "operator:x", "admin"] {
            assert!(bad.parse::<Role>().is_err(), "{bad:?}");
        }
    }
}

//! Who may do what: names and passwords, and the tokens that are given for them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST};
use ring::hmac;

use super::answer::{Refusal, Reply};
use super::name::{Name, fill};
use super::state::Asked;
use super::token::{Grant, TokenAuth, Tokens};
use crate::error::{Error, Result};

/// What somebody may do with repositories; each of these includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rights {
    /// Read.
    Pull,
    /// Add and replace.
    Push,
    /// Remove.
    Delete,
}

impl Rights {
    fn cover(self, action: &str) -> bool {
        match action {
            "pull" => true,
            "push" => self >= Rights::Push,
            "delete" | "*" => self >= Rights::Delete,
            _ => false,
        }
    }
}

/// The users of a registry.
///
/// ```
/// use boxship_registry::{Rights, Users};
/// let users = Users::new()
///     .with("ci", "a long password", Rights::Push)
///     .with_below("guest", "another one", Rights::Pull, "public")
///     .anonymous(Rights::Pull);
/// # drop(users);
/// ```
#[derive(Clone, Default)]
#[must_use = "users do nothing until a registry has them"]
pub struct Users {
    users: BTreeMap<String, (String, Rights, Option<String>)>,
    anonymous: Option<Rights>,
}

impl Users {
    /// Nobody.
    pub fn new() -> Users {
        Users::default()
    }

    /// Adds somebody, or replaces who had that name.
    pub fn with(mut self, name: impl Into<String>, password: impl Into<String>, rights: Rights) -> Users {
        self.users.insert(name.into(), (password.into(), rights, None));
        self
    }

    /// Adds somebody whose rights end at one repository and those below it.
    pub fn with_below(
        mut self,
        name: impl Into<String>,
        password: impl Into<String>,
        rights: Rights,
        repository: impl Into<String>,
    ) -> Users {
        self.users.insert(name.into(), (password.into(), rights, Some(repository.into())));
        self
    }

    /// What those may do who do not say who they are; nothing by default.
    pub fn anonymous(mut self, rights: Rights) -> Users {
        self.anonymous = Some(rights);
        self
    }
}

impl fmt::Debug for Users {
    /// Without the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: Vec<(&String, Rights)> =
            self.users.iter().map(|(n, (_, rights, _))| (n, *rights)).collect();
        f.debug_struct("Users").field("users", &users).field("anonymous", &self.anonymous).finish()
    }
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// To be somebody.
    Anyone,
    Catalog,
    Repository(Name, &'static str),
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Nobody is asked who he is.
    Everyone,
    Anonymous,
    User(String),
    Token(Vec<Grant>),
}

/// A user without the password, but with what knows it.
struct User {
    tag: hmac::Tag,
    rights: Rights,
    below: Option<Name>,
}

/// The users of a running registry.
struct Directory {
    /// New in every process: what is in memory is no password, nor its plain hash.
    key: hmac::Key,
    users: BTreeMap<String, User>,
    /// Compared with where there is no such user.
    nobody: hmac::Tag,
    anonymous: Option<Rights>,
}

pub(super) struct Access {
    directory: Option<Directory>,
    pub(super) tokens: Option<Tokens>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match (&self.directory, &self.tokens) {
            (None, _) => "open",
            (Some(_), None) => "basic",
            (Some(_), Some(_)) => "token",
        };
        write!(f, "Access({mode})")
    }
}

impl Access {
    pub(super) fn new(users: Option<Users>, tokens: Option<TokenAuth>) -> Result<Access> {
        let random = |source| Error::Io { operation: "get random numbers", source };
        let Some(users) = users else { return Ok(Access { directory: None, tokens: None }) };
        let mut key = [0; 32];
        fill(&mut key).map_err(random)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let mut all = BTreeMap::new();
        for (name, (password, rights, below)) in users.users {
            if name.is_empty() || name.contains(':') {
                return Err(Error::invalid("user", format!("{name:?} is empty or has a colon")));
            }
            let below = below
                .map(|b| Name::parse(&b).ok_or_else(|| Error::invalid("repository", format!("{b:?}"))))
                .transpose()?;
            let tag = hmac::sign(&key, format!("{name}:{password}").as_bytes());
            all.insert(name, User { tag, rights, below });
        }
        // No name has a colon, so nobody can be this.
        let nobody = hmac::sign(&key, b":");
        let directory = Directory { key, users: all, nobody, anonymous: users.anonymous };
        Ok(Access { directory: Some(directory), tokens: tokens.map(Tokens::new).transpose()? })
    }

    /// Who asks, if he may.
    pub(super) fn check(&self, asked: &Asked, need: &Need, tls: bool) -> Reply<Who> {
        let Some(directory) = &self.directory else { return Ok(Who::Everyone) };
        let given = asked.headers.get(AUTHORIZATION);
        let who = match (&self.tokens, given) {
            (Some(tokens), Some(given)) => {
                let token = given.to_str().ok().and_then(|v| scheme(v, "bearer"));
                token.and_then(|t| tokens.verify(t)).map(Who::Token)
            }
            (Some(_), None) => None,
            (None, Some(given)) => {
                let pair = given.to_str().ok().and_then(|v| scheme(v, "basic")).and_then(pair);
                pair.and_then(|(name, password)| directory.user(&name, &password)).map(Who::User)
            }
            (None, None) => directory.anonymous.map(|_| Who::Anonymous),
        };
        match who {
            None => Err(self.challenge(asked, need, tls, false)),
            // Clients ask here how to say who they are.
            Some(Who::Anonymous) if *need == Need::Anyone => Err(self.challenge(asked, need, tls, false)),
            Some(who) if self.allows(&who, need) => Ok(who),
            Some(Who::User(_)) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "DENIED",
                "requested access to the resource is denied",
            )),
            Some(_) => Err(self.challenge(asked, need, tls, true)),
        }
    }

    /// Whether somebody may do something.
    pub(super) fn allows(&self, who: &Who, need: &Need) -> bool {
        let Some(directory) = &self.directory else { return true };
        match who {
            Who::Everyone => false,
            Who::Token(grants) => match need {
                Need::Anyone => true,
                Need::Catalog => grants.iter().any(|g| g.covers("registry", "catalog", "*")),
                Need::Repository(name, action) => {
                    grants.iter().any(|g| g.covers("repository", name.as_str(), action))
                }
            },
            Who::Anonymous => directory.may(None, need),
            Who::User(name) => directory.may(Some(name), need),
        }
    }

    /// Of what is asked for, what a user (or who says nothing) gets a token for.
    pub(super) fn grant(&self, user: Option<&str>, wanted: &Grant) -> Grant {
        let may = |action: &String| {
            let need = match (wanted.kind.as_str(), Name::parse(&wanted.name)) {
                ("registry", _) if wanted.name == "catalog" && action == "*" => Need::Catalog,
                ("repository", Some(name)) => match action.as_str() {
                    "pull" => Need::Repository(name, "pull"),
                    "push" => Need::Repository(name, "push"),
                    "delete" => Need::Repository(name, "delete"),
                    "*" => Need::Repository(name, "*"),
                    _ => return false,
                },
                _ => return false,
            };
            self.directory.as_ref().is_some_and(|d| d.may(user, &need))
        };
        let actions = wanted.actions.iter().filter(|a| may(a)).cloned().collect();
        Grant { kind: wanted.kind.clone(), name: wanted.name.clone(), actions }
    }

    /// The name, if the password is right.
    pub(super) fn user(&self, name: &str, password: &str) -> Option<String> {
        self.directory.as_ref()?.user(name, password)
    }

    /// Whether there still is such a user.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.directory.as_ref().is_some_and(|d| d.users.contains_key(name))
    }

    /// Whether something is for everybody.
    pub(super) fn has_anonymous(&self) -> bool {
        self.directory.as_ref().is_some_and(|d| d.anonymous.is_some())
    }

    fn challenge(&self, asked: &Asked, need: &Need, tls: bool, known: bool) -> Refusal {
        let challenge = match &self.tokens {
            None => basic_challenge(),
            Some(tokens) => {
                let mut text = tokens.challenge(asked.text(&HOST), tls);
                match need {
                    Need::Anyone => {}
                    Need::Catalog => text += ",scope=\"registry:catalog:*\"",
                    Need::Repository(name, action) => {
                        let actions = if *action == "push" { "pull,push" } else { action };
                        text += &format!(",scope=\"repository:{name}:{actions}\"");
                    }
                }
                if known {
                    text += ",error=\"insufficient_scope\"";
                }
                text
            }
        };
        unauthorized(challenge)
    }
}

pub(super) fn basic_challenge() -> String {
    "Basic realm=\"boxship registry\", charset=\"UTF-8\"".to_owned()
}

pub(super) fn unauthorized(challenge: String) -> Refusal {
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
    refusal.header("www-authenticate", challenge)
}

impl Directory {
    fn user(&self, name: &str, password: &str) -> Option<String> {
        let user = self.users.get(name);
        let tag = user.map_or(&self.nobody, |u| &u.tag);
        // In the same time, whether there is such a user and how much of the password is right.
        let right = hmac::verify(&self.key, format!("{name}:{password}").as_bytes(), tag.as_ref()).is_ok();
        (right && user.is_some()).then(|| name.to_owned())
    }

    fn may(&self, user: Option<&str>, need: &Need) -> bool {
        let (rights, below) = match user {
            None => match self.anonymous {
                Some(rights) => (rights, None),
                None => return false,
            },
            Some(name) => match self.users.get(name) {
                Some(user) => (user.rights, user.below.as_ref()),
                None => return false,
            },
        };
        match need {
            Need::Anyone => true,
            // A list of everything is not for those who may see a part.
            Need::Catalog => below.is_none(),
            Need::Repository(name, action) => {
                let inside = |below: &Name| {
                    let rest = name.as_str().strip_prefix(below.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                below.is_none_or(inside) && rights.cover(action)
            }
        }
    }
}

/// What follows the name of a scheme.
pub(super) fn scheme<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case(name).then(|| rest.trim())
}

/// The name and password of a `Basic` value.
pub(super) fn pair(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_what() {
        let users = Users::new().with("root", "r", Rights::Delete).with("ci", "c", Rights::Push).with_below(
            "guest",
            "g",
            Rights::Pull,
            "pub",
        );
        assert!(!format!("{users:?}").contains("\"r\""), "no password is printed");
        let access = Access::new(Some(users), None).expect("valid");
        assert_eq!(access.user("ci", "c"), Some("ci".into()));
        assert_eq!(access.user("ci", "r"), None);
        assert_eq!(access.user("", ""), None);
        assert_eq!(access.user("nobody", ""), None);
        let need = |name: &str, action| Need::Repository(Name::parse(name).expect("a name"), action);
        let who = |name: &str| Who::User(name.into());
        assert!(access.allows(&who("root"), &need("a", "delete")));
        assert!(access.allows(&who("ci"), &need("a", "push")));
        assert!(!access.allows(&who("ci"), &need("a", "delete")));
        assert!(access.allows(&who("guest"), &need("pub/x", "pull")));
        assert!(access.allows(&who("guest"), &need("pub", "pull")));
        assert!(!access.allows(&who("guest"), &need("public", "pull")));
        assert!(!access.allows(&who("guest"), &need("pub", "push")));
        assert!(!access.allows(&who("guest"), &Need::Catalog));
        assert!(!access.allows(&who("gone"), &Need::Anyone));
        assert!(!access.allows(&Who::Anonymous, &need("pub", "pull")));
        for name in ["", "a:b"] {
            assert!(Access::new(Some(Users::new().with(name, "x", Rights::Pull)), None).is_err());
        }
    }
}

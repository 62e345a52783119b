//! Finds out who calls.

use super::audit::AuditTrail;
use super::rate::Rates;
use super::tokens::{Checked, Tokens, digest};
use super::{Principal, Rejections, SessionKey, SessionKeys};
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::request::Fault;
use crate::tls::{Caller, Files, Tls, Watched};
use arc_swap::ArcSwap;
use moso_proto::Code;
use moso_proto::grant::Subject;
use moso_proto::token::TokenError;
use moso_queue::meta::AuditWord;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a long stream's caller may go on.
const STREAM_LOOK_EVERY: Duration = Duration::from_secs(10);
/// The name under which the cluster itself acts: nobody else may.
const RESERVED: &str = "moso";
/// Stands in the audit log behind a name that nobody has checked: no name that was checked holds a space.
const UNVERIFIED: &str = "(unverified)";
/// When who shows what is checked by a key that is not here yet may come again, ms.
const KEY_RETRY_MS: u32 = 1_000;

/// What a node that asks who calls works with; all of it follows its files.
pub struct Security {
    /// TLS of all ports.
    pub tls: Arc<Tls>,
    tokens: ArcSwap<Tokens>,
    token_files: ArcSwap<Watched>,
    session_keys: ArcSwap<SessionKeys>,
    session_file: Watched,
    config: Paths,
    checked: Checked<Arc<Principal>>,
}

struct Paths {
    cluster: String,
    token_keys: Option<PathBuf>,
    token_issuers: Option<PathBuf>,
    session_keys: PathBuf,
}

fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

impl Security {
    /// Reads the files that the configuration names. `None`: it says that nobody is to be asked.
    ///
    /// # Errors
    /// [`Error::Config`] if a file cannot be used.
    pub fn open(config: &Config) -> Result<Option<Security>> {
        if config.insecure {
            return Ok(None);
        }
        let files = Files { ca: config.tls_ca.clone(), cert: config.tls_cert.clone(), key: config.tls_key.clone() };
        let tls = Arc::new(Tls::open(files, &config.cluster, config.node)?);
        let paths = Paths {
            cluster: config.cluster.clone(),
            token_keys: given(&config.token_keys),
            token_issuers: given(&config.token_issuers),
            session_keys: config.session_keys.clone(),
        };
        let wrong = |reason: String| Error::Config(vec![reason]);
        let session_file = Watched::new([&paths.session_keys]);
        let session_keys = read_session_keys(&paths.session_keys).map_err(wrong)?;
        let (tokens, watched) = paths.read_tokens().map_err(wrong)?;
        Ok(Some(Security {
            tls,
            tokens: ArcSwap::from_pointee(tokens),
            token_files: ArcSwap::from_pointee(watched),
            session_keys: ArcSwap::from_pointee(session_keys),
            session_file,
            config: paths,
            checked: Checked::new(),
        }))
    }

    /// Reads again what has changed; what cannot be used is logged, and what was stays.
    pub fn refresh(&self) {
        self.tls.refresh();
        if self.token_files.load().changed() {
            match self.config.read_tokens() {
                Ok((mut tokens, watched)) => {
                    tokens.adopt(&self.tokens.load());
                    self.tokens.store(Arc::new(tokens));
                    self.token_files.store(Arc::new(watched));
                    // What was found good by keys that are gone is not good any more.
                    self.checked.clear();
                    tracing::info!("new keys of tokens are in use");
                }
                Err(error) => {
                    tracing::error!(%error, "the new keys of tokens cannot be used, the old ones stay in use")
                }
            }
        }
        if self.session_file.changed() {
            match read_session_keys(&self.config.session_keys) {
                Ok(keys) => {
                    self.session_keys.store(Arc::new(keys));
                    tracing::info!("new keys of sessions are in use");
                }
                Err(error) => tracing::error!(%error, "the new keys of sessions cannot be used, the old ones stay"),
            }
        }
    }

    /// Fetches the keys of issuers that give them over https, for as long as it is polled.
    pub async fn fetch_keys(self: Arc<Self>) {
        let (of, cleared) = (self.clone(), self.clone());
        let current = move || of.tokens.load().remote().cloned().collect();
        // What was found good by keys that are gone is not good any more.
        super::remote::run(current, move || cleared.checked.clear()).await;
    }

    fn by_token(&self, token: &str, now_s: u64) -> std::result::Result<Arc<Principal>, TokenError> {
        let digest = digest(token);
        if let Some(principal) = self.checked.get(&digest, now_s) {
            return Ok(principal);
        }
        let granted = self.tokens.load().check(token)?;
        let (issued_s, expires_s) = (granted.issued_s, granted.expires_s);
        let principal = Arc::new(Principal { issued_s, expires_s, ..Principal::granted(&granted.grants) });
        self.checked.put(digest, expires_s, principal.clone(), now_s);
        Ok(principal)
    }
}

impl Paths {
    fn read_tokens(&self) -> std::result::Result<(Tokens, Watched), String> {
        let mut files: Vec<PathBuf> = self.token_keys.iter().chain(&self.token_issuers).cloned().collect();
        // What changes while it is read is read again.
        let before = Tokens::read(&self.cluster, self.token_keys.as_deref(), self.token_issuers.as_deref())?;
        files.extend(before.key_files().cloned());
        let watched = Watched::new(&files);
        let tokens = Tokens::read(&self.cluster, self.token_keys.as_deref(), self.token_issuers.as_deref())?;
        Ok((tokens, watched))
    }
}

fn read_session_keys(path: &Path) -> std::result::Result<SessionKeys, String> {
    let bytes = crate::tls::read_file("session_keys", path)?;
    SessionKeys::from_json(&bytes).map_err(|reason| format!("session_keys = {}: {reason}", path.display()))
}

/// Finds out who calls, and counts those who are not let in.
pub struct Guard {
    security: Option<Arc<Security>>,
    anyone: Arc<Principal>,
    directory: Arc<Directory>,
    clock: Clock,
    rejections: Rejections,
    calls: Rates,
    submissions: Rates,
    trail: AuditTrail,
}

impl Guard {
    /// Asks who calls by `security`; without it nobody is asked.
    pub fn new(security: Option<Arc<Security>>, directory: Arc<Directory>, clock: Clock, trail: AuditTrail) -> Self {
        Guard {
            security,
            anyone: Arc::new(Principal::anyone()),
            directory,
            clock,
            rejections: Rejections::default(),
            calls: Rates::default(),
            submissions: Rates::default(),
            trail,
        }
    }

    /// Who calls, by the value of `authorization` and by the connection. A token goes before a certificate.
    ///
    /// # Errors
    /// `Unauthenticated` if it is not known who it is, `Forbidden` if he is locked out, `Busy` if he calls too often.
    pub fn identify(
        &self,
        authorization: Option<&str>,
        caller: Option<&Caller>,
    ) -> std::result::Result<Arc<Principal>, Fault> {
        let Some(security) = &self.security else { return Ok(self.anyone.clone()) };
        let now_s = self.clock.wall_ms() / 1_000;
        let principal = match (authorization, caller.and_then(|caller| caller.certificate.as_ref())) {
            (Some(text), _) => {
                let token = bearer(text)
                    .ok_or_else(|| self.stranger("no bearer token", "authorization must be Bearer TOKEN"))?;
                security.by_token(token, now_s).map_err(|error| self.bad_token(&error))?
            }
            (None, Some(Ok(named))) if named.cluster != security.tls.cluster() => {
                return Err(self.stranger("other cluster", "the certificate is of another cluster"));
            }
            (None, Some(Ok(named))) => match &named.subject {
                Subject::User(grants) => Arc::new(Principal::granted(grants)),
                Subject::Node(_) => return Err(self.stranger("node certificate", "a node's certificate names no user")),
            },
            (None, Some(Err(reason))) => return Err(self.stranger("certificate", reason)),
            (None, None) => {
                return Err(self.stranger("nobody", "say who you are: give a token or a user's certificate"));
            }
        };
        if &*principal.user == RESERVED {
            return Err(self.stranger("reserved name", "no user may have the name of the cluster itself"));
        }
        self.admit(&principal)?;
        Ok(principal)
    }

    /// Whether a user that is known may come in now.
    fn admit(&self, principal: &Principal) -> std::result::Result<(), Fault> {
        self.still_welcome(principal)?;
        let per_s = self.directory.meta.load().user(&principal.user).calls_per_s;
        self.within(&self.calls, "calls", principal, per_s, 1)
    }

    /// Whether a user is still let in: his object may have been changed, or his token's time be over.
    ///
    /// # Errors
    /// `Unauthenticated`, `Forbidden`.
    pub fn still_welcome(&self, principal: &Principal) -> std::result::Result<(), Fault> {
        self.check(principal).map_err(|(reason, fault)| self.reject(reason, &principal.user, fault))
    }

    fn holds(&self, principal: &Principal) -> bool {
        self.check(principal).is_ok()
    }

    fn check(&self, principal: &Principal) -> std::result::Result<(), (&'static str, Fault)> {
        if principal.is_anyone() {
            return Ok(());
        }
        let meta = self.directory.meta.load();
        let user = meta.user(&principal.user);
        if user.locked {
            let text = format!("user {} is locked out", principal.user);
            return Err(("locked", Fault::new(Code::Forbidden, text)));
        }
        let by_token = principal.expires_s > 0;
        if by_token && principal.issued_s < user.tokens_from_s {
            let text = format!("tokens of {} made before a certain time were revoked: get a new one", principal.user);
            return Err(("revoked", Fault::new(Code::Unauthenticated, text)));
        }
        if by_token && principal.expires_s <= self.clock.wall_ms() / 1_000 {
            let fault = Fault::new(Code::Unauthenticated, TokenError::Expired.to_string());
            return Err((TokenError::Expired.word(), fault));
        }
        Ok(())
    }

    /// Waits until what the caller showed does not hold any more: his token's time is over, or he was locked out.
    pub async fn over(&self, principal: &Principal) {
        if principal.is_anyone() {
            return std::future::pending().await;
        }
        while self.holds(principal) {
            let left_ms = (principal.expires_s * 1_000).saturating_sub(self.clock.wall_ms());
            let by_token = principal.expires_s > 0;
            let until = if by_token { Duration::from_millis(left_ms + 1) } else { STREAM_LOOK_EVERY };
            tokio::time::sleep(until.min(STREAM_LOOK_EVERY)).await;
        }
    }

    /// Whether a user may submit so many jobs more now.
    ///
    /// # Errors
    /// `Busy`, with the time to come back.
    pub fn may_submit_now(&self, principal: &Principal, jobs: u32) -> std::result::Result<(), Fault> {
        let per_s = self.directory.meta.load().user(&principal.user).jobs_per_s;
        self.within(&self.submissions, "submitted jobs", principal, per_s, jobs)
    }

    fn within(
        &self,
        rates: &Rates,
        what: &str,
        principal: &Principal,
        per_s: u32,
        cost: u32,
    ) -> std::result::Result<(), Fault> {
        if per_s == 0 || principal.is_anyone() {
            return Ok(());
        }
        rates.take(&principal.user, per_s, cost, self.clock.mono_ms()).map_err(|retry_after_ms| {
            let text =
                format!("user {} may have {per_s} {what} a second at this node: come back later", principal.user);
            let fault = Fault { retry_after_ms, ..Fault::new(Code::Busy, text) };
            self.reject("rate", &principal.user, fault)
        })
    }

    /// The shards' number of a worker's session, and the key that the worker must name when it comes again.
    ///
    /// # Errors
    /// `Unavailable` if the key that it names is not here yet: another node has it.
    pub fn session(
        &self,
        principal: &Principal,
        session: u64,
        used: SessionKey,
    ) -> std::result::Result<(u64, SessionKey), Fault> {
        let Some(security) = &self.security else { return Ok((session, 0)) };
        security.session_keys.load().number(&principal.user, session, used).map_err(|_| Fault {
            retry_after_ms: KEY_RETRY_MS,
            ..Fault::new(Code::Unavailable, format!("this node has not got the session key {used} yet"))
        })
    }

    /// Refuses what a user may not do, and counts it.
    pub fn forbid(&self, principal: &Principal, what: &'static str, message: impl Into<String>) -> Fault {
        self.reject(what, &principal.user, Fault::new(Code::Forbidden, message))
    }

    fn stranger(&self, reason: &'static str, message: &str) -> Fault {
        self.reject(reason, "", Fault::new(Code::Unauthenticated, message))
    }

    fn bad_token(&self, error: &TokenError) -> Fault {
        match error {
            TokenError::Fetching => {
                let fault = Fault::new(Code::Unavailable, error.to_string());
                self.reject(error.word(), "", Fault { retry_after_ms: KEY_RETRY_MS, ..fault })
            }
            _ => self.stranger(error.word(), &error.to_string()),
        }
    }

    fn reject(&self, reason: &'static str, user: &str, fault: Fault) -> Fault {
        self.rejections.count(reason, user);
        fault
    }

    /// What somebody does, as the audit log has it. Where nobody is asked who he is, his own word stands there, marked.
    pub fn word(&self, actor: &str, action: &str, target: String) -> AuditWord {
        let actor =
            if self.asks() { actor.to_owned() } else { format!("{actor} {UNVERIFIED}").trim_start().to_owned() };
        AuditWord { actor, action: action.to_owned(), target, outcome: String::new(), node: self.directory.node }
    }

    /// Writes into the audit log what an operator did. `actor`: his name, or what he says it is where nobody is asked.
    pub fn did(&self, actor: &str, action: &str, target: String, outcome: String) {
        self.trail.write(AuditWord { outcome, ..self.word(actor, action, target) });
    }

    /// Writes into the audit log what somebody tried that only operators may.
    pub fn tried(&self, who: &Principal, what: &str) {
        self.trail.tried(self.word(&who.user, "refused", what.to_owned()), self.clock.mono_ms());
    }

    /// What was rejected so far.
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// Whether callers are asked who they are.
    pub fn asks(&self) -> bool {
        self.security.is_some()
    }
}

/// The token of `Bearer TOKEN`.
fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

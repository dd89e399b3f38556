//! Logging in: by password, by a command that gives one, by ticket for the renewal, or by API token.
//!
//! One login at a time, whoever needs it; the others wait for it. Never asks the operator and never answers a second
//! factor. Read next: `session.rs`.

use std::sync::Arc;

use super::ApiError;
use super::answer::{Asked, Effect};
use super::http::{HttpApi, Repeat, Request, Tries, Verb};
use super::session::{Issued, Proof, Session, Ticket, password_from, ticket};
use crate::config::{Credentials, Secret};

impl HttpApi {
    /// Returns the user or token id of the present login.
    pub(super) async fn session_user(&self) -> Result<String, ApiError> {
        Ok(self.session(None).await?.user.clone())
    }

    /// Returns the user or token id as it is configured.
    pub(super) fn configured_user(&self) -> &str {
        match &self.config.credentials {
            Credentials::Password { user, .. } | Credentials::PasswordCommand { user, .. } => user,
            Credentials::Token { id, .. } => id,
        }
    }

    /// Drops a login that was refused, unless somebody has made a new one already.
    pub(super) async fn forget(&self, generation: u64) {
        let mut session = self.session.lock().await;
        if session.as_ref().map(|session| session.generation) == Some(generation) {
            *session = None;
        }
    }

    /// Returns the present login, making or renewing it. Of several callers one does the work and the others wait.
    pub(super) async fn session(&self, refused: Option<u64>) -> Result<Arc<Session>, ApiError> {
        let mut slot = self.session.lock().await;
        let last = slot.as_ref().map_or(0, |session| session.generation);
        let generation = last.max(refused.unwrap_or(0)) + 1;
        let fresh = match slot.as_ref() {
            Some(session) if !session.is_old() => return Ok(session.clone()),
            Some(session) => match session.renewable() {
                // A renewal that fails is no harm: there is still the password.
                Some(old) => self.log_in(old, generation).await.ok(),
                None => None,
            },
            None => None,
        };
        let fresh = match fresh {
            Some(session) => session,
            None => self.first_login(generation).await?,
        };
        let fresh = Arc::new(fresh);
        *slot = Some(fresh.clone());
        Ok(fresh)
    }

    async fn first_login(&self, generation: u64) -> Result<Session, ApiError> {
        match &self.config.credentials {
            Credentials::Token { id, secret } => Ok(Session {
                generation,
                user: id.clone(),
                proof: Proof::Token(Secret::new(format!("PVEAPIToken={id}={}", secret.reveal()))),
            }),
            Credentials::Password { password, .. } => self.log_in(password, generation).await,
            Credentials::PasswordCommand { command, .. } => {
                let run = || async { password_from(command).await };
                let password = self.password.get_or_try_init(run).await;
                let password = password.map_err(|reason| self.refused_login(reason))?;
                self.log_in(password, generation).await
            }
        }
    }

    async fn log_in(&self, password: &Secret, generation: u64) -> Result<Session, ApiError> {
        let user = self.configured_user();
        let parameters = [("username", user), ("password", password.reveal())];
        let request = Request {
            verb: Verb::Post,
            path: "/access/ticket",
            parameters: &parameters,
            repeat: Repeat::Harmless,
            tries: Tries::One,
        };
        let answer = self.attempts(&request, None).await?;
        let shown = request.shown();
        let asked = Asked {
            // A second login does no harm, so an unanswered one is not "perhaps done".
            effect: Effect::Reads,
            ..self.asked(&request, &shown)
        };
        let data = answer.data(&asked)?;
        match ticket(&data).map_err(|odd| asked.unexpected(odd.0))? {
            Ticket::Full { user, ticket, csrf } => Ok(Session {
                generation,
                user: user.unwrap_or_else(|| self.configured_user().to_owned()),
                proof: Proof::Ticket {
                    ticket,
                    csrf,
                    issued: Issued::now(),
                },
            }),
            Ticket::NeedsSecondFactor => Err(self.refused_login(format!(
                "the user has a second factor, which proxmove cannot answer; use an API token: \
                 token=user@realm!name=SECRET in [pve:{}]",
                self.config.alias
            ))),
        }
    }

    fn refused_login(&self, reason: String) -> ApiError {
        ApiError::Login {
            cluster: self.config.alias.clone(),
            user: self.configured_user().to_owned(),
            reason,
        }
    }

    /// Makes the present ticket that much older, for tests of the renewal.
    #[cfg(test)]
    pub(super) async fn age_ticket(&self, by: std::time::Duration) {
        let mut slot = self.session.lock().await;
        let old = slot.take().expect("a session");
        let Proof::Ticket {
            ticket,
            csrf,
            issued,
        } = &old.proof
        else {
            panic!("a ticket");
        };
        *slot = Some(Arc::new(Session {
            generation: old.generation,
            user: old.user.clone(),
            proof: Proof::Ticket {
                ticket: ticket.clone(),
                csrf: csrf.clone(),
                issued: issued.aged(by),
            },
        }));
    }
}

//! What one user may have at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::Failure;
use crate::engine::Owner;

/// The limits a [`Quota`] keeps; named as in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Requests of one user, running and waiting.
    pub requests_per_user: usize,
    /// Prompt tokens in them.
    pub tokens_per_user: usize,
    /// Sessions of one user.
    pub sessions_per_user: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    requests: usize,
    tokens: usize,
    sessions: usize,
}

/// Counts what each user holds.
#[derive(Debug)]
pub struct Quota {
    limits: QuotaLimits,
    held: Mutex<HashMap<Owner, Held>>,
}

impl Quota {
    /// Nobody holds anything yet.
    pub fn new(limits: QuotaLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Owner, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more request; it is free again when dropped.
    ///
    /// # Errors
    /// The user has as many as allowed.
    pub fn request(self: &Arc<Self>, owner: Owner) -> Result<Place, Failure> {
        let mut held = self.held();
        let entry = held.entry(owner).or_default();
        let most = self.limits.requests_per_user;
        if entry.requests >= most {
            return Err(Failure::LimitsExceeded(format!(
                "limits.requests-per-user: you have {most} requests already; wait for one or \
                 cancel it"
            )));
        }
        entry.requests += 1;
        Ok(Place {
            quota: Arc::clone(self),
            owner,
            tokens: AtomicUsize::new(0),
        })
    }

    /// A seat for one more session; it is free again when dropped.
    ///
    /// # Errors
    /// The user has as many as allowed.
    pub fn session(self: &Arc<Self>, owner: Owner) -> Result<Seat, Failure> {
        let mut held = self.held();
        let entry = held.entry(owner).or_default();
        let most = self.limits.sessions_per_user;
        if entry.sessions >= most {
            return Err(Failure::LimitsExceeded(format!(
                "limits.sessions-per-user: you have {most} sessions already; close one"
            )));
        }
        entry.sessions += 1;
        Ok(Seat {
            quota: Arc::clone(self),
            owner,
        })
    }

    /// Takes back what `change` takes away; who holds nothing is forgotten.
    fn give_back(&self, owner: Owner, change: impl FnOnce(&mut Held)) {
        let mut held = self.held();
        if let Some(entry) = held.get_mut(&owner) {
            change(entry);
            if (entry.requests, entry.sessions) == (0, 0) {
                held.remove(&owner);
            }
        }
    }

    /// Requests of all users, running and waiting.
    pub fn requests(&self) -> usize {
        self.held().values().map(|held| held.requests).sum()
    }

    /// Sessions of all users.
    pub fn sessions(&self) -> usize {
        self.held().values().map(|held| held.sessions).sum()
    }

    /// Users who hold something now.
    pub fn users(&self) -> usize {
        self.held().len()
    }
}

/// One request's place in its user's quota.
#[derive(Debug)]
pub struct Place {
    quota: Arc<Quota>,
    owner: Owner,
    tokens: AtomicUsize,
}

impl Place {
    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Counts the tokens of the request's prompt, once they are known.
    ///
    /// # Errors
    /// The user's requests have too many together.
    pub fn add_tokens(&self, tokens: usize) -> Result<(), Failure> {
        let mut held = self.quota.held();
        let entry = held.entry(self.owner).or_default();
        let most = self.quota.limits.tokens_per_user;
        let sum = entry.tokens.saturating_add(tokens);
        if sum > most {
            return Err(Failure::LimitsExceeded(format!(
                "limits.tokens-per-user: your requests would have {sum} prompt tokens, {most} \
                 are allowed"
            )));
        }
        entry.tokens = sum;
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let tokens = *self.tokens.get_mut();
        self.quota.give_back(self.owner, |held| {
            held.requests -= 1;
            held.tokens -= tokens;
        });
    }
}

/// One session's seat in its user's quota.
#[derive(Debug)]
pub struct Seat {
    quota: Arc<Quota>,
    owner: Owner,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.quota.give_back(self.owner, |held| held.sessions -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_is_limited_and_another_is_not() {
        let quota = Quota::new(QuotaLimits {
            requests_per_user: 2,
            tokens_per_user: 100,
            sessions_per_user: 1,
        });
        let (me, you) = (Owner(1), Owner(2));
        let first = quota.request(me).unwrap();
        let second = quota.request(me).unwrap();
        let refused = quota.request(me).unwrap_err();
        assert!(refused.to_string().contains("limits.requests-per-user"));
        let theirs = quota.request(you).unwrap();
        second.add_tokens(60).unwrap();
        theirs.add_tokens(60).unwrap();
        drop(first);
        let third = quota.request(me).unwrap();
        let refused = third.add_tokens(41).unwrap_err();
        assert!(refused.to_string().contains("limits.tokens-per-user"));
        third.add_tokens(40).unwrap();
        let seat = quota.session(me).unwrap();
        let refused = quota.session(me).unwrap_err();
        assert!(refused.to_string().contains("limits.sessions-per-user"));
        drop((second, third, theirs));
        assert_eq!(quota.users(), 1);
        drop(seat);
        assert_eq!(quota.users(), 0);
    }
}

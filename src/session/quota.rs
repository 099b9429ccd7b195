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
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    requests: usize,
    tokens: usize,
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
        let mut held = self.quota.held();
        if let Some(entry) = held.get_mut(&self.owner) {
            entry.requests -= 1;
            entry.tokens -= *self.tokens.get_mut();
            if entry.requests == 0 {
                held.remove(&self.owner);
            }
        }
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
        drop((second, third, theirs));
        assert_eq!(quota.users(), 0);
    }
}

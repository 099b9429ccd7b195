//! What is available: the model's own state, and what holds it back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::loader::{Availability, Pause, Unavailable};
use crate::engine::Pace;

/// What holds the model back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Conditions {
    /// The machine sleeps, or is about to.
    pub asleep: bool,
    /// What the settings say about the present source of power.
    pub power: Pace,
}

impl Conditions {
    /// How hard the engine may work.
    pub fn pace(self) -> Pace {
        match self.asleep {
            true => Pace::Paused,
            false => self.power,
        }
    }

    fn pause(self) -> Option<Pause> {
        match self {
            Conditions { asleep: true, .. } => Some(Pause::Sleep),
            Conditions { power, .. } => (power == Pace::Paused).then_some(Pause::Battery),
        }
    }

    /// What the model's own state looks like under them. What is wrong with it
    /// outlasts them, and is told first.
    fn over(self, own: &Availability) -> Availability {
        match (self.pause(), own) {
            (_, Availability::Unavailable(_)) => own.clone(),
            (Some(pause), _) => Availability::Unavailable(Unavailable::Paused(pause)),
            (None, Availability::Ready { model, .. }) => Availability::Ready {
                model: model.clone(),
                slow: self.power == Pace::Slow,
            },
            (None, own) => own.clone(),
        }
    }
}

/// The model's own state, the conditions, and what both make together.
pub(super) struct Standing {
    /// Held while the three change together.
    change: Mutex<()>,
    own: watch::Sender<Availability>,
    conditions: watch::Sender<Conditions>,
    shown: watch::Sender<Availability>,
}

impl Standing {
    /// Without a model.
    pub fn new() -> Self {
        Self {
            change: Mutex::default(),
            own: watch::Sender::new(Availability::Idle(None)),
            conditions: watch::Sender::default(),
            shown: watch::Sender::new(Availability::Idle(None)),
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes of what is shown.
    pub fn watch(&self) -> watch::Receiver<Availability> {
        self.shown.subscribe()
    }

    /// Changes of the model's own state.
    pub fn watch_own(&self) -> watch::Receiver<Availability> {
        self.own.subscribe()
    }

    /// The model's own state.
    pub fn own(&self) -> Availability {
        self.own.borrow().clone()
    }

    /// What is shown.
    pub fn shown(&self) -> Availability {
        self.shown.borrow().clone()
    }

    /// The conditions.
    pub fn conditions(&self) -> Conditions {
        *self.conditions.borrow()
    }

    /// The model's state is another.
    pub fn publish(&self, own: Availability) {
        let _changing = self.changing();
        replace(&self.own, own);
        self.show();
    }

    /// The same, unless the state is another than it `was` by now.
    pub fn publish_after(&self, was: &Availability, own: Availability) {
        let _changing = self.changing();
        if *self.own.borrow() == *was {
            replace(&self.own, own);
            self.show();
        }
    }

    /// The conditions are others.
    pub fn change(&self, change: impl FnOnce(&mut Conditions)) {
        let _changing = self.changing();
        let mut conditions = self.conditions();
        change(&mut conditions);
        replace(&self.conditions, conditions);
        self.show();
    }

    fn show(&self) {
        let shown = self.conditions().over(&self.own.borrow());
        replace(&self.shown, shown);
    }

    /// Waits until the machine is awake; gives the conditions then.
    pub async fn awake(&self) -> Conditions {
        let mut conditions = self.conditions.subscribe();
        // The sender is in `self`, so this ends by the value alone.
        let awake = conditions.wait_for(|now| !now.asleep).await;
        awake.map_or_else(|_| Conditions::default(), |now| *now)
    }

    /// Waits until the machine is awake.
    ///
    /// # Errors
    /// It is, and nothing is to be computed all the same.
    pub async fn admit(&self) -> Result<(), Unavailable> {
        match self.awake().await.power {
            Pace::Paused => Err(Unavailable::Paused(Pause::Battery)),
            Pace::Full | Pace::Slow => Ok(()),
        }
    }
}

/// Sends what differs.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, new: T) {
    sender.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(slow: bool) -> Availability {
        Availability::Ready {
            model: "m".into(),
            slow,
        }
    }

    fn paused(pause: Pause) -> Availability {
        Availability::Unavailable(Unavailable::Paused(pause))
    }

    #[test]
    fn conditions_show_over_the_state() {
        let standing = Standing::new();
        standing.publish(ready(false));
        standing.change(|c| c.power = Pace::Slow);
        assert_eq!(standing.shown(), ready(true));
        standing.change(|c| c.power = Pace::Paused);
        assert_eq!(standing.shown(), paused(Pause::Battery));
        standing.change(|c| c.asleep = true);
        assert_eq!(standing.shown(), paused(Pause::Sleep));
        assert_eq!(standing.own(), ready(false));
        let broken = Availability::Unavailable(Unavailable::Failed("broken".into()));
        standing.publish(broken.clone());
        assert_eq!(standing.shown(), broken);
        standing.publish(ready(false));
        standing.change(|c| *c = Conditions::default());
        assert_eq!(standing.shown(), ready(false));
    }

    #[tokio::test]
    async fn who_comes_while_the_machine_sleeps_waits() {
        let standing = std::sync::Arc::new(Standing::new());
        standing.change(|c| c.asleep = true);
        let waiting = {
            let standing = std::sync::Arc::clone(&standing);
            tokio::spawn(async move { standing.admit().await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        standing.change(|c| c.asleep = false);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        standing.change(|c| c.power = Pace::Paused);
        let refused = Unavailable::Paused(Pause::Battery);
        assert_eq!(standing.admit().await, Err(refused));
    }
}

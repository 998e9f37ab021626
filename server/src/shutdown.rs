//! Signals that are set once, such as "drain" and "close".

use tokio::sync::watch;

/// The side that sets a signal.
#[derive(Debug)]
pub(crate) struct Trigger(watch::Sender<bool>);

/// A signal that any number of tasks wait for.
#[derive(Clone, Debug)]
pub(crate) struct Signal(watch::Receiver<bool>);

/// A signal that is not set, and its trigger.
pub(crate) fn signal() -> (Trigger, Signal) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Signal(receiver))
}

impl Trigger {
    /// Sets the signal.
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }
}

impl Signal {
    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the signal is set. A trigger that was dropped counts as set, so that no task
    /// outlives the server.
    pub(crate) async fn wait_until_set(&self) {
        drop(self.0.clone().wait_for(|set| *set).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_releases_every_waiter_now_and_later() {
        let (trigger, signal) = signal();
        assert!(!signal.is_set());
        let waiter = tokio::spawn({
            let signal = signal.clone();
            async move { signal.wait_until_set().await }
        });
        trigger.set();
        waiter.await.unwrap();
        signal.wait_until_set().await;
        assert!(signal.is_set());
    }

    #[tokio::test]
    async fn a_dropped_trigger_releases_the_waiters() {
        let (trigger, signal) = signal();
        drop(trigger);
        signal.wait_until_set().await;
    }
}

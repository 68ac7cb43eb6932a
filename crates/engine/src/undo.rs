//! Steps with an undo each: what was done is taken back, last first, unless the whole succeeds.

/// Undoes its steps when dropped, unless disarmed.
#[derive(Default)]
pub(crate) struct Undo(Vec<(&'static str, Box<dyn FnOnce() + Send>)>);

impl Undo {
    pub(crate) fn new() -> Undo {
        Undo::default()
    }

    /// Adds the undo of a step that was just done; `what` is for the log.
    pub(crate) fn push(&mut self, what: &'static str, undo: impl FnOnce() + Send + 'static) {
        self.0.push((what, Box::new(undo)));
    }

    /// The whole has succeeded.
    pub(crate) fn disarm(mut self) {
        self.0.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some((what, undo)) = self.0.pop() {
            tracing::debug!(step = what, "undo");
            undo();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use wharf_base::sync::Mutex;

    #[test]
    fn undoes_in_reverse_unless_disarmed() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let step = |undo: &mut Undo, n: u32| {
            let seen = seen.clone();
            undo.push("step", move || seen.lock().push(n));
        };
        let mut undo = Undo::new();
        step(&mut undo, 1);
        step(&mut undo, 2);
        drop(undo);
        assert_eq!(*seen.lock(), [2, 1]);
        let mut undo = Undo::new();
        step(&mut undo, 3);
        undo.disarm();
        assert_eq!(*seen.lock(), [2, 1]);
    }
}

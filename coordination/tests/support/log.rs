//! What the program says in its log, as an event that a test can await.

use std::fmt::{Debug, Write};
use std::sync::OnceLock;

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::DEADLINE;

static LINES: OnceLock<watch::Sender<Vec<String>>> = OnceLock::new();

/// Begins to listen, for the whole process.
pub fn listen() {
    LINES.get_or_init(|| {
        tracing::subscriber::set_global_default(Listener).expect("nobody else listens");
        watch::Sender::new(Vec::new())
    });
}

/// Waits until one line says all of this.
pub async fn says(parts: &[&str]) {
    let mut lines = LINES.get().expect("listen first").subscribe();
    let said = |line: &String| parts.iter().all(|part| line.contains(part));
    let waited = tokio::time::timeout(DEADLINE, lines.wait_for(|lines| lines.iter().any(said))).await;
    assert!(waited.is_ok(), "the log never said {parts:?}");
}

struct Listener;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).expect("a string takes it");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("paddock")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        if let Some(lines) = LINES.get() {
            lines.send_modify(|lines| lines.push(line.0));
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

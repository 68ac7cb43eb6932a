//! What was measured, beside what was aimed for, as a table.

/// A number and whose it is.
pub(crate) struct Figure {
    pub(crate) who: &'static str,
    pub(crate) value: f64,
}

/// What wharf should reach.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// At most this many times the peer's figure.
    AtMost(f64, &'static str),
    /// At least this many times the peer's figure.
    AtLeast(f64, &'static str),
    /// At most this figure.
    Below(f64),
    /// At least this figure.
    Above(f64),
    /// Nothing: for the record.
    None,
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) wharf: f64,
    pub(crate) peers: Vec<Figure>,
    pub(crate) aim: Aim,
    /// What keeps wharf from its aim where it misses it, as far as that has been found.
    pub(crate) reason: &'static str,
}

/// Said of a missed aim whose reason nobody has found.
const UNKNOWN: &str = "Reason not yet found.";

/// How a row stands to its aim.
enum Verdict {
    Met(String),
    Missed(String),
    Open(String),
}

impl Row {
    pub(crate) fn new(work: impl Into<String>, unit: &'static str, wharf: f64) -> Row {
        Row { work: work.into(), unit, wharf, peers: Vec::new(), aim: Aim::None, reason: "" }
    }

    pub(crate) fn peer(mut self, who: &'static str, value: Option<f64>) -> Row {
        self.peers.extend(value.map(|value| Figure { who, value }));
        self
    }

    pub(crate) fn aim(mut self, aim: Aim) -> Row {
        self.aim = aim;
        self
    }

    /// Says what keeps wharf from the aim where it misses it.
    pub(crate) fn because(mut self, reason: &'static str) -> Row {
        self.reason = reason;
        self
    }

    fn of(&self, who: &str) -> Option<f64> {
        self.peers.iter().find(|p| p.who == who).map(|p| p.value)
    }

    fn verdict(&self) -> Verdict {
        let (text, met) = match self.aim {
            Aim::None => return Verdict::Open(String::new()),
            Aim::Below(limit) => {
                (format!("≤ {} {}", number(limit), self.unit), Some(self.wharf <= limit))
            }
            Aim::Above(limit) => {
                (format!("≥ {} {}", number(limit), self.unit), Some(self.wharf >= limit))
            }
            Aim::AtMost(factor, who) => (
                format!("≤ {} × {who}", share(factor)),
                self.of(who).map(|v| self.wharf <= factor * v),
            ),
            Aim::AtLeast(factor, who) => (
                format!("≥ {} × {who}", share(factor)),
                self.of(who).map(|v| self.wharf >= factor * v),
            ),
        };
        match met {
            None => Verdict::Open(format!("{text}: not measured")),
            Some(true) => Verdict::Met(text),
            Some(false) => Verdict::Missed(text),
        }
    }

    /// The line that a person watches.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{:<58} {:>10} {}", self.work, number(self.wharf), self.unit);
        for Figure { who, value } in &self.peers {
            line += &format!("  {who} {} ({})", number(*value), ratio(self.wharf / value));
        }
        match self.verdict() {
            Verdict::Met(aim) => line + "  aim " + &aim + ": met",
            Verdict::Missed(aim) => line + "  aim " + &aim + ": MISSED",
            Verdict::Open(aim) if aim.is_empty() => line,
            Verdict::Open(aim) => line + "  aim " + &aim,
        }
    }
}

/// The table in Markdown, and a list of what is missed.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| work | wharf | peers (wharf ÷ peer) | aim | |\n|---|---:|---|---|---|\n".to_owned();
    let mut missed = String::new();
    for row in rows {
        let peers: Vec<String> = row
            .peers
            .iter()
            .map(|p| format!("{} {} ({})", p.who, number(p.value), ratio(row.wharf / p.value)))
            .collect();
        let (aim, word) = match row.verdict() {
            Verdict::Met(aim) => (aim, "met"),
            Verdict::Missed(aim) => {
                let reason = if row.reason.is_empty() { UNKNOWN } else { row.reason };
                let figure = format!("{} {}", number(row.wharf), row.unit);
                missed += &format!("- {}: {figure}; aim {aim}. {reason}\n", row.work);
                (aim, "**missed**")
            }
            Verdict::Open(aim) => (aim, ""),
        };
        text += &format!(
            "| {} | {} {} | {} | {aim} | {word} |\n",
            row.work,
            number(row.wharf),
            row.unit,
            peers.join("; ")
        );
    }
    if missed.is_empty() {
        return text;
    }
    text + "\nAims that this run missed:\n\n" + &missed
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A factor as a person would say it: 1/20, 0.7, 1.11.
fn share(factor: f64) -> String {
    let inverse = 1.0 / factor;
    if inverse > 1.5 && (inverse - inverse.round()).abs() < 1e-6 {
        return format!("1/{inverse:.0}");
    }
    let text = format!("{factor:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn ratio(value: f64) -> String {
    if value > 0.0 && value < 0.1 { format!("1/{:.0}", 1.0 / value) } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_aim_is_met() {
        let row = |wharf| {
            Row::new("x", "ms", wharf).peer("docker", Some(100.0)).aim(Aim::AtMost(0.05, "docker"))
        };
        assert!(row(4.0).line().ends_with("aim ≤ 1/20 × docker: met"), "{}", row(4.0).line());
        assert!(row(6.0).line().contains("MISSED"));
        assert!(markdown(&[row(6.0)]).contains("- x: 6.00 ms; aim ≤ 1/20 × docker. Reason"));
        let why = row(6.0).because("The moon.");
        assert!(markdown(&[why]).contains("docker. The moon.\n"));
        let alone = Row::new("x", "ms", 1.0).aim(Aim::AtLeast(5.0, "docker"));
        assert!(alone.line().ends_with("not measured"));
    }
}

//! Lists: docker's tables with aligned columns, its templates and its JSON lines.

use serde_json::{Map, Value};
use wharf_template::{Env, Missing, Template};

use crate::app::say;
use crate::failure::Failure;

/// One thing in a list: its columns by name, and its labels.
#[derive(Default)]
pub struct Row {
    /// The columns, sorted by name as docker's JSON has them.
    pub columns: Map<String, Value>,
    /// What `.Label "name"` looks up.
    pub labels: Map<String, Value>,
}

impl Row {
    /// A row of these columns.
    pub fn new(columns: Vec<(&str, Value)>) -> Self {
        let mut columns: Vec<(String, Value)> =
            columns.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        columns.sort_by(|a, b| a.0.cmp(&b.0));
        Self { columns: columns.into_iter().collect(), labels: Map::new() }
    }

    /// With the labels of an object.
    pub fn labels(mut self, labels: &Value) -> Self {
        self.labels = labels.as_object().cloned().unwrap_or_default();
        self
    }
}

/// How a list is printed.
pub struct Report<'a> {
    /// docker's format: `table …`, `json`, or a template.
    pub format: String,
    /// The header of each column.
    pub headers: &'a [(&'a str, &'a str)],
    /// The Go type that a wrong column's message names.
    pub kind: &'static str,
}

impl Report<'_> {
    /// Prints the list.
    pub fn print(&self, rows: &[Row]) -> Result<(), Failure> {
        say(self.render(rows)?)
    }

    /// The list as text.
    pub fn render(&self, rows: &[Row]) -> Result<String, Failure> {
        let is_table = self.format.starts_with("table");
        let text = match self.format.as_str() {
            "json" => "{{json .}}",
            format if is_table => &format["table".len()..],
            format => format,
        };
        let text = text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
        let template = parse(&text)?;
        let mut body = String::new();
        for row in rows {
            let label = |name: &str, args: &[Value]| label(row, name, args);
            let env =
                Env { missing: Missing::Field(self.kind), method: Some(&label), ..Env::default() };
            let data = Value::Object(row.columns.clone());
            let line = template.execute_in(&data, &env).map_err(parsing)?;
            // A whole row goes through Go's json.Marshal, which is wary of HTML; single columns do not.
            body.push_str(&if is_json(&self.format) { super::html_safe(&line) } else { line });
            body.push('\n');
        }
        match is_table {
            true => Ok(align(&format!("{}\n{body}", self.header(&template)), 10, 3)),
            false => Ok(body),
        }
    }

    fn header(&self, template: &Template) -> String {
        let names: Map<String, Value> =
            self.headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        let label = |name: &str, args: &[Value]| match (name, args) {
            ("Label", [Value::String(label)]) => {
                let last = label.rsplit('.').next().unwrap_or_default();
                Some(Ok(last.replace(['-', '_'], " ").into()))
            }
            _ => None,
        };
        let env = Env { headers: true, method: Some(&label), ..Env::default() };
        // A template that fails here has failed on the rows too, or there are none.
        template.execute_in(&Value::Object(names), &env).unwrap_or_default()
    }
}

fn label(row: &Row, name: &str, args: &[Value]) -> Option<Result<Value, String>> {
    match (name, args) {
        ("Label", [Value::String(label)]) => {
            Some(Ok(row.labels.get(label).cloned().unwrap_or_else(|| "".into())))
        }
        _ => None,
    }
}

/// Whether a format asks for the whole row as JSON.
pub fn is_json(format: &str) -> bool {
    matches!(format, "json" | "{{json .}}")
}

/// A template, or docker's message about it.
pub fn parse(text: &str) -> Result<Template, Failure> {
    Template::parse(text).map_err(|e| Failure::new(format!("template parsing error: {e}")))
}

/// docker's message about a template that fails.
pub fn parsing(error: wharf_template::ExecError) -> Failure {
    Failure::new(format!("template parsing error: {error}"))
}

/// Go's tabwriter: a cell that a tab ends is as wide as the widest above and below it.
pub fn align(text: &str, least: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> =
        text.trim_end_matches('\n').split('\n').map(|l| l.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|l| vec![0; l.len() - 1]).collect();
    let columns = lines.iter().map(|l| l.len() - 1).max().unwrap_or(0);
    for column in 0..columns {
        let mut at = 0;
        while at < lines.len() {
            let end = (at..lines.len()).find(|i| widths[*i].len() <= column).unwrap_or(lines.len());
            let cell = |i: usize| lines[i][column].chars().count() + padding;
            let width = (at..end).map(cell).max().unwrap_or(0).max(least);
            for row in &mut widths[at..end] {
                row[column] = width;
            }
            at = end + 1;
        }
    }
    let mut out = String::new();
    for (line, widths) in lines.iter().zip(&widths) {
        for (cell, width) in line.iter().zip(widths) {
            out.push_str(&format!("{cell:width$}"));
        }
        out.push_str(line.last().unwrap_or(&""));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(format: &str) -> Report<'static> {
        let headers = &[("ID", "CONTAINER ID"), ("Name", "NAMES")];
        Report { format: format.to_owned(), headers, kind: "*formatter.ContainerContext" }
    }

    fn rows() -> Vec<Row> {
        let row = |id: &str, name: &str| Row::new(vec![("Name", name.into()), ("ID", id.into())]);
        vec![row("1", "first"), row("22", "second")]
    }

    #[test]
    fn tables_are_aligned() {
        let got = report("table {{.ID}}\\t{{.Name}}").render(&rows()).unwrap();
        assert_eq!(got, "CONTAINER ID   NAMES\n1              first\n22             second\n");
        let got = report("table {{.Name}}\\t{{upper .ID}}").render(&rows()).unwrap();
        assert_eq!(got, "NAMES     CONTAINER ID\nfirst     1\nsecond    22\n");
        assert_eq!(report("table {{.ID}}").render(&[]).unwrap(), "CONTAINER ID\n");
    }

    #[test]
    fn templates_and_json_are_lines() {
        assert_eq!(report("{{.Name}}").render(&rows()).unwrap(), "first\nsecond\n");
        let got = report("json").render(&rows()[..1]).unwrap();
        assert_eq!(got, "{\"ID\":\"1\",\"Name\":\"first\"}\n");
        assert!(
            report("{{.Nope}}")
                .render(&rows())
                .unwrap_err()
                .text
                .contains("can't evaluate field Nope")
        );
    }

    #[test]
    fn labels_are_looked_up() {
        let row = rows().remove(0).labels(&serde_json::json!({"com.x.the-one": "v"}));
        let got = report("table {{.Label \"com.x.the-one\"}}").render(&[row]).unwrap();
        assert_eq!(got, "the one\nv\n");
    }
}

//! `viz`: a project as a graph for graphviz.

use wharf_spec::compose::Project;
use wharf_spec::compose::model::Service;

use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::verbs::Outcome;

/// What the nodes tell.
#[derive(Clone, Copy, Default)]
struct Shown {
    networks: bool,
    ports: bool,
    image: bool,
}

/// `compose viz`
pub async fn viz(call: Call) -> Outcome {
    let given = &call.given;
    let size = given.int_or("indentation-size", 1);
    let size = usize::try_from(size)
        .map_err(|_| Failure::new(format!("invalid indentation size: {size}")))?;
    let indent = if given.on("spaces") { " " } else { "\t" }.repeat(size);
    warn("viz command is EXPERIMENTAL");
    let project = super::load(&call, &[], wharf_spec::compose::Selection::WithDependencies)?;
    let shown = Shown {
        networks: given.on("networks"),
        ports: given.on("ports"),
        image: given.on("image"),
    };
    say_line(graph(&project, shown, &indent))
}

fn graph(project: &Project, shown: Shown, indent: &str) -> String {
    let mut out = format!("digraph \"{}\" {{\n{indent}layout=dot;\n", project.name);
    for (name, service) in &project.services {
        let label = label(project, name, service, shown);
        out.push_str(&format!("{indent}\"{name}\" [style=\"filled\" label=<{label}>];\n"));
    }
    out.push('\n');
    for (name, service) in &project.services {
        for on in service.depends_on.keys() {
            out.push_str(&format!("{indent}\"{name}\" -> \"{on}\";\n"));
        }
    }
    out + "}\n"
}

fn label(project: &Project, name: &str, service: &Service, shown: Shown) -> String {
    let mut out = format!("<font point-size=\"15\">{name}</font>");
    let mut part = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines = lines.join("<br/>");
            out.push_str(&format!(
                "<font point-size=\"10\"><br/><br/><b>{title}:</b><br/>{lines}</font>"
            ));
        }
    };
    if shown.networks {
        let networks = service.networks_by_priority().into_iter();
        part("Networks", networks.map(|n| n.to_owned()).collect());
    }
    if shown.ports {
        let port = |p: &wharf_spec::compose::model::Port| {
            let ip = if p.host_ip.is_empty() { String::new() } else { format!("{}:", p.host_ip) };
            format!("{ip}{}:{} ({}, {})", p.published, p.target, p.protocol, p.mode)
        };
        part("Ports", service.ports.iter().map(port).collect());
    }
    if shown.image {
        part("Image", vec![service.image_or_default(&project.name, name)]);
    }
    out
}

//! `images --tree`: images with the platforms that they are for.

use std::io::IsTerminal as _;

use serde_json::Value;

use super::{Outcome, count, items, real, text};
use crate::api::url;
use crate::app::{Call, say};
use crate::out::{ellipsis, short_id};
use crate::parse::size;

/// Columns after the first: title, width, whether at the right edge.
const COLUMNS: [(&str, usize, bool); 4] =
    [("ID", 12, false), ("DISK USAGE", 10, true), ("CONTENT SIZE", 12, true), ("EXTRA", 5, false)];
const SPACING: usize = 3;
/// The first column gets at least as much; columns that leave it less are not shown.
const NAME_MIN: usize = 12;
/// How wide the output is where no terminal says so.
const WIDTH: usize = 80;

const WARNING: &str =
    "WARNING: This is an experimental feature. The output may change and shouldn't be depended on.";

/// What one line says beside its name.
struct Details {
    id: String,
    disk: f64,
    content: f64,
    used: bool,
}

struct Image {
    names: Vec<String>,
    details: Details,
    platforms: Vec<(String, Details)>,
    created: i64,
}

/// `images --tree`
pub(super) async fn tree(call: &Call, wanted: &str) -> Outcome {
    let given = &call.given;
    let clash = [("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest")];
    if let Some((_, flag)) = clash.iter().find(|(flag, _)| given.on(flag)) {
        return Err(format!("--{flag} is not yet supported with --tree").into());
    }
    if !given.text("format").is_empty() {
        return Err("--format is not yet supported with --tree".into());
    }
    let all = given.on("all");
    let query = [("all", if all { "1" } else { "" }), ("filters", wanted), ("manifests", "1")];
    let list = call.client()?.get(&url("/images/json", &query)).await?;
    let mut images: Vec<Image> =
        items(&list).iter().map(image).filter(|i| all || !i.names.is_empty()).collect();
    images.sort_by_key(|i| std::cmp::Reverse(i.created));
    let width = wharf_sys::terminal::size(std::io::stdout()).map_or(WIDTH, |(_, w)| w.into());
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    say(render(&images, width.max(20), color))
}

fn image(of: &Value) -> Image {
    let mut platforms = Vec::new();
    let mut content = 0.0;
    for manifest in items(&of["Manifests"]) {
        content += real(&manifest["Size"]["Content"]);
        if text(manifest, "Kind") != "image" {
            continue;
        }
        let details = Details {
            id: short_id(text(manifest, "ID")),
            disk: real(&manifest["Size"]["Total"]),
            content: real(&manifest["Size"]["Content"]),
            used: !items(&manifest["ImageData"]["Containers"]).is_empty(),
        };
        platforms.push((platform(&manifest["ImageData"]["Platform"]), details));
    }
    let names = items(&of["RepoTags"]).iter().filter_map(Value::as_str).map(str::to_owned);
    let used = count(&of["Containers"]) > 0 || platforms.iter().any(|(_, d)| d.used);
    let details = Details { id: short_id(text(of, "Id")), disk: real(&of["Size"]), content, used };
    Image { names: names.collect(), details, platforms, created: count(&of["Created"]) }
}

/// `linux/arm64/v8`
fn platform(of: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|p| text(of, p));
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
}

/// The whole output, as docker writes it.
fn render(images: &[Image], width: usize, color: bool) -> String {
    let paint = |code: &str, text: &str| match color {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let (first, columns) = columns(images, width);
    let cells = |details: &Details| {
        let used = if details.used { "U" } else { "" };
        let (disk, content) = (size::decimal(details.disk, 3), size::decimal(details.content, 3));
        let texts = [details.id.clone(), disk, content, used.to_owned()];
        let mut line = String::new();
        for (text, (_, width, right)) in texts.iter().zip(columns) {
            line += &" ".repeat(SPACING);
            line += &if *right { format!("{text:>width$}") } else { format!("{text:<width$}") };
        }
        line + "\n"
    };
    let left = |code: &str, text: &str| {
        let text = ellipsis(text, first);
        let fill = first.saturating_sub(text.chars().count());
        paint(code, &text) + &" ".repeat(fill)
    };

    let mut out = paint("93", WARNING) + "\n";
    out += &format!("{:>width$}\n\n", " Info ->  U In Use ");
    out += &left("1", "IMAGE");
    for (title, width, right) in columns {
        out += &" ".repeat(SPACING);
        out += &paint(
            "1",
            &if *right { format!("{title:>width$}") } else { format!("{title:<width$}") },
        );
    }
    out += "\n";
    // Somebody's platforms stand apart from the next image.
    let apart = images.iter().any(|i| !i.platforms.is_empty());
    for image in images {
        let mut names = image.names.clone();
        names.sort_by_key(|n| std::cmp::Reverse(n.len()));
        match names.split_last() {
            None => out += &left("2", "<untagged>"),
            Some((last, others)) => {
                for name in others {
                    out += &(paint("1;34", name) + "\n");
                }
                out += &left("1;34", last);
            }
        }
        out += &cells(&image.details);
        for (n, (platform, details)) in image.platforms.iter().enumerate() {
            let twig = if n + 1 == image.platforms.len() { "└─" } else { "├─" };
            out += &left("0", &format!("{twig} {platform}"));
            out += &cells(details);
        }
        if apart {
            out += "\n";
        }
    }
    out
}

/// The width of the first column, and the others that there is room for.
fn columns(images: &[Image], width: usize) -> (usize, &'static [(&'static str, usize, bool)]) {
    let mut room = width;
    let mut shown = 0;
    for (_, wide, _) in &COLUMNS {
        if room < wide + SPACING + NAME_MIN {
            break;
        }
        room -= wide + SPACING;
        shown += 1;
    }
    let names = images.iter().flat_map(|i| &i.names).map(|n| n.chars().count());
    let platforms = images.iter().flat_map(|i| &i.platforms).map(|(p, _)| p.chars().count() + 3);
    let widest = names.chain(platforms).chain(["IMAGE".len()]).max().unwrap_or_default();
    (room.min(widest), &COLUMNS[..shown])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn platforms_hang_below_their_image() {
        let manifest = |arch: &str, containers: &[&str]| {
            json!({"Kind": "image", "ID": "sha256:0123456789abcdef", "Size": {"Total": 2_500_000, "Content": 1_000_000},
                "ImageData": {"Platform": {"os": "linux", "architecture": arch}, "Containers": containers}})
        };
        let shop = image(
            &json!({"Id": "sha256:fedcba98765432100", "RepoTags": ["shop:1", "registry:5000/shop:1"],
            "Size": 5_000_000, "Containers": -1, "Created": 5,
            "Manifests": [manifest("amd64", &["c"]), manifest("arm64", &[]),
                {"Kind": "attestation", "Size": {"Content": 500}}]}),
        );
        let expected = "registry:5000/shop:1
shop:1                 fedcba987654          5MB            2MB   U    
├─ linux/amd64         0123456789ab        2.5MB            1MB   U    
└─ linux/arm64         0123456789ab        2.5MB            1MB        

";
        let text = render(&[shop], 80, false);
        assert!(text.ends_with(expected), "{text}");
        assert!(
            text.contains(
                "\nIMAGE                  ID             DISK USAGE   CONTENT SIZE   EXTRA\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn narrow_terminals_get_fewer_columns() {
        assert_eq!(columns(&[], 80).1.len(), 4);
        assert_eq!(columns(&[], 44).1.len(), 2);
        assert_eq!(columns(&[], 20).1.len(), 0);
    }
}

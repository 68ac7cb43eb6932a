//! What the builtin images run: small blocking programs inside the binary, started by a hidden verb.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use wharf_sys::events::{Events, Interest, next_signal, signal_fd};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// Runs the program of a builtin image; `None` if `verb` is not one of theirs. Called first in `main`, in
/// a single thread.
pub fn main(verb: &str) -> Option<ExitCode> {
    let result = match verb {
        "builtin-hello" => hello(),
        "builtin-pause" => until_stopped(None),
        "builtin-welcome" => TcpListener::bind(("::", 80))
            .or_else(|_| TcpListener::bind(("0.0.0.0", 80)))
            .and_then(|listener| until_stopped(Some(&listener))),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "wharf {verb}: {error}"));
            ExitCode::FAILURE
        }
    })
}

fn hello() -> io::Result<()> {
    io::stdout().write_all(
        b"\nHello from wharf!\n\
        This message shows that your installation works.\n\n\
        To get here, wharf took these steps:\n\
        \x20 1. The command line asked the engine for a container of the image \"hello-world\".\n\
        \x20 2. The engine made that image from its own program: no registry was asked.\n\
        \x20 3. It created a container from the image and ran the program in it,\n\
        \x20    which wrote what you are reading.\n\
        \x20 4. The engine carried the text to your terminal.\n\n\
        Next, see a container serve a page:\n\
        \x20 wharf run -d -p 8080:80 wharf/welcome\n\
        \x20 curl http://127.0.0.1:8080/\n\n",
    )
}

/// Waits for SIGTERM or SIGINT, collects orphans meanwhile, and serves if there is something to serve.
fn until_stopped(listener: Option<&TcpListener>) -> io::Result<()> {
    let signals = signal_fd(&[SIGINT, SIGTERM, SIGCHLD])?;
    let events = Events::new()?;
    events.add(&signals, 0, Interest::READ)?;
    if let Some(listener) = listener {
        listener.set_nonblocking(true)?;
        events.add(listener, 1, Interest::READ)?;
    }
    let mut ready = Vec::new();
    loop {
        events.wait(&mut ready, None)?;
        while let Some(signal) = next_signal(&signals)? {
            if signal != SIGCHLD {
                return Ok(());
            }
            while wharf_sys::child::reap()?.is_some() {}
        }
        while let Some(Ok((stream, _))) = listener.map(TcpListener::accept) {
            // A client that hangs up or stalls is no reason to stop serving.
            drop(serve(stream));
        }
    }
}

/// Answers one request, whatever it asks.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let patience = Some(Duration::from_secs(2));
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let mut request = Vec::new();
    let mut buffer = [0; 2048];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < 16 << 10 {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let body = if request.starts_with(b"HEAD ") { String::new() } else { page() };
    let length = page().len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\
        Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
}

fn page() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = escape(read("/proc/sys/kernel/hostname").trim());
    let kernel = escape(read("/proc/sys/kernel/osrelease").trim());
    let address = escape(&own_address(&read("/etc/hosts"), &name));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>wharf: {name}</title>\n\
        <style>body{{font:18px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}}\
        code{{background:#eef;padding:.1em .3em}}</style></head>\n\
        <body><h1>Welcome aboard</h1>\n\
        <p>Container <code>{name}</code> answered you.</p>\n\
        <ul><li>address: <code>{address}</code></li><li>kernel: <code>{kernel}</code></li></ul>\n\
        <p>The image <code>wharf/welcome</code> is made from wharf's own program; nothing was downloaded.</p>\n\
        </body></html>\n"
    )
}

fn own_address(hosts: &str, name: &str) -> String {
    let line = hosts.lines().find(|l| l.split_whitespace().skip(1).any(|w| w == name));
    line.and_then(|l| l.split_whitespace().next()).unwrap_or("unknown").to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_with_the_page() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        serve(listener.accept().unwrap().0).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(body.contains("answered you"));
    }

    #[test]
    fn the_address_is_that_of_the_own_name() {
        let hosts = "127.0.0.1 localhost\n172.17.0.2\tabc\n";
        assert_eq!(own_address(hosts, "abc"), "172.17.0.2");
        assert_eq!(own_address(hosts, "b<c"), "unknown");
    }
}

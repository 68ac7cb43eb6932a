//! Compose files, two merged: any text is refused with a message or becomes a project that prints.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_spec::compose::{Env, Files, Form, Request, Text, load, parse_env_file};

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, _: &str) -> bool {
        false
    }
}

fuzz_target!(|text: &str| {
    // A NUL parts the files, the last of which is an env file.
    let mut parts: Vec<&str> = text.splitn(3, '\0').collect();
    let mut env = Env::from([("HOME".to_owned(), "/root".to_owned())]);
    if parts.len() == 3 {
        let outer = env.clone();
        _ = parse_env_file(parts.pop().unwrap_or_default(), &outer, &mut env);
    }
    let file = |text: &&str| Text { name: "/p/compose.yaml".to_owned(), text: (*text).to_owned() };
    let files = parts.iter().map(file).collect();
    let request = Request { files, dir: "/p".to_owned(), env, ..Request::default() };
    match load(&request, &NoFiles) {
        Ok(loaded) => {
            _ = loaded.project.written(Form::Yaml).yaml();
            loaded.project.services.values().for_each(|s| drop(s.hash()));
        }
        Err(error) => _ = error.to_string(),
    }
});

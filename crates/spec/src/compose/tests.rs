use std::collections::BTreeMap;

use super::*;

/// Files in memory.
#[derive(Default)]
struct Memory(BTreeMap<String, String>);

impl Memory {
    fn with(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &str) -> std::io::Result<String> {
        self.0.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }
}

fn request(texts: &[&str]) -> Request {
    let name = |at: usize| format!("/shop/{}.yaml", ["compose", "override", "third"][at]);
    let files = texts.iter().enumerate();
    Request {
        files: files.map(|(at, t)| Text { name: name(at), text: (*t).to_owned() }).collect(),
        dir: "/shop".to_owned(),
        env: Env::from([("HOME".to_owned(), "/root".to_owned())]),
        ..Request::default()
    }
}

fn loaded(texts: &[&str], files: &[(&str, &str)]) -> Result<Loaded, ComposeError> {
    load(&request(texts), &Memory::with(files))
}

#[track_caller]
fn project(texts: &[&str]) -> Project {
    loaded(texts, &[]).unwrap_or_else(|e| panic!("{e}")).project
}

#[track_caller]
fn yaml(texts: &[&str]) -> String {
    project(texts).written(Form::Yaml).yaml()
}

/// Checks that loading fails with all these words.
#[track_caller]
fn refused(texts: &[&str], files: &[(&str, &str)], words: &[&str]) {
    let error = loaded(texts, files).err().map(|e| e.to_string());
    let error = error.unwrap_or_else(|| panic!("accepted: {texts:?}"));
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn config_prints_the_long_form() {
    let text = r#"
services:
  web:
    image: nginx:${TAG:-1}
    ports: ["8080:80", 443]
    volumes: ["./html:/h:ro", "data:/d", /anon]
    command: nginx -g 'daemon off;'
    environment: [A=b, HOME, NOPE, "COST=$$5"]
    healthcheck: {test: curl x, interval: 1m30s}
    mem_limit: 512m
    depends_on: [db]
  db:
    image: postgres
    init: "true"
volumes: {data: {}, unused: {}}
"#;
    let expected = r#"name: shop
services:
  db:
    image: postgres
    init: true
    networks:
      default: null
  web:
    command:
      - nginx
      - -g
      - daemon off;
    depends_on:
      db:
        condition: service_started
        required: true
    environment:
      A: b
      COST: $5
      HOME: /root
      NOPE: null
    healthcheck:
      test:
        - CMD-SHELL
        - curl x
      interval: 1m30s
    image: nginx:1
    mem_limit: "536870912"
    networks:
      default: null
    ports:
      - mode: ingress
        target: 80
        published: "8080"
        protocol: tcp
      - mode: ingress
        target: 443
        protocol: tcp
    volumes:
      - type: bind
        source: /shop/html
        target: /h
        read_only: true
        bind:
          create_host_path: true
      - type: volume
        source: data
        target: /d
        volume: {}
      - type: volume
        target: /anon
        volume: {}
networks:
  default:
    name: shop_default
volumes:
  data:
    name: shop_data
"#;
    let mut project = project(&[text]);
    project.drop_unused();
    assert_eq!(project.written(Form::Yaml).yaml(), expected);
}

/// The hashes were printed by docker-compose 2.40.3 with `config --hash '*'`; a container made by
/// one tool must not look changed to the other.
#[test]
fn hashes_are_those_of_stock_compose() {
    let text = r#"
name: t
services:
  plain: {image: busybox}
  command: {image: busybox, command: "sh -c 'a && b'", entrypoint: "", environment: {A: "<&>", N: 1.5}}
  sized: {image: busybox, cpus: 0.5, mem_limit: 1g, shm_size: 64m, ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}}
  ports: {image: busybox, ports: ["80:80", "127.0.0.1:1-2:1-2/udp"], expose: [1, "2"]}
  deploy: {image: busybox, scale: 2, deploy: {resources: {limits: {cpus: "1.25", memory: 50M}}, labels: {a: 1}}}
  probe: {image: busybox, healthcheck: {test: [CMD, x], retries: 3, timeout: 1500ms}, stop_grace_period: 1m, init: false, tmpfs: /run, extra_hosts: ["h:1.2.3.4"]}
  mounts: {image: busybox, volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m}}, "v:/v:ro", "/abs:/x:z"], networks: {n: {aliases: [q], priority: 2}}}
volumes: {v: {}}
networks: {n: {}}
"#;
    let project = project(&[text]);
    for (name, hash) in HASHES {
        assert_eq!(project.services[*name].hash(), *hash, "{name}");
    }
    assert_eq!(project.services.len(), HASHES.len());
}

const HASHES: &[(&str, &str)] = &[
    ("command", "b641bd4d9737185b77cc59ee610460fc4af0d3b6901910c9a78528d453f95b21"),
    ("deploy", "061613367ead0987f29c4fe0d4f8e4a74d69449aa6f1a41039bdd31671bab8f6"),
    ("mounts", "7cc79e8f45ab1542a208d3b23e528be002b6cf8d4d234635241d70e3a966dd61"),
    ("plain", "2afd7866203dca40993313263173003833e9de9c3ad83f2f59484e32a5605234"),
    ("ports", "06fbf58c82ee47d04e82160024fc912b11675e1ea16c2a1f59148b73eab53e5e"),
    ("probe", "38740e4cfee93788ca3faf49f8542e8e73013c3e40cb7828d7c50a5f562c8636"),
    ("sized", "614c2123ea1d2b7e3887e7579f42beba2856ec1cda22acd0f1753776b756502a"),
];

#[test]
fn later_files_override_earlier_ones() {
    let base = r#"
services:
  a:
    image: x
    ports: ["80:80", "90:90"]
    environment: {A: 1, B: 2}
    command: one
    labels: {x: y}
    volumes: ["./a:/a", "/x"]
    dns: [1.1.1.1]
"#;
    let over = r#"
services:
  a:
    ports: !override ["81:80"]
    environment: [B=3, C=4]
    command: [two]
    labels: !reset {}
    volumes: ["./other:/a"]
    dns: 2.2.2.2
"#;
    let project = project(&[base, over]);
    let a = &project.services["a"];
    let ports: Vec<&str> = a.ports.iter().map(|p| p.published.as_str()).collect();
    assert_eq!(ports, ["81"]);
    let value = |name: &str| a.environment.0[name].clone().unwrap();
    assert_eq!([value("A"), value("B"), value("C")], ["1", "3", "4"]);
    assert_eq!(a.command.0.as_deref(), Some(&["two".to_owned()][..]));
    assert!(a.labels.is_empty());
    let volumes: Vec<&str> = a.volumes.iter().map(|v| v.source.as_str()).collect();
    assert_eq!(volumes, ["/shop/other", ""]);
    assert_eq!(a.dns.0, ["1.1.1.1", "2.2.2.2"]);
}

#[test]
fn services_extend_and_files_include_others() {
    let text = r#"
include: [inc/compose.yaml]
services:
  web:
    extends: {file: base/common.yaml, service: base}
    environment: [X=1]
  again: {extends: web, command: !reset null}
"#;
    let files = [
        (
            "/shop/inc/compose.yaml",
            "services: {inner: {image: a, volumes: ['./v:/v'], environment: {Q: \"${QQ}\"}}}",
        ),
        ("/shop/inc/.env", "QQ=from-file"),
        (
            "/shop/base/common.yaml",
            "services: {base: {image: x, command: run it, build: ., environment: {A: 1}}}",
        ),
    ];
    let project = loaded(&[text], &files).unwrap_or_else(|e| panic!("{e}")).project;
    assert_eq!(project.services["inner"].volumes[0].source, "/shop/inc/v");
    assert_eq!(project.services["inner"].environment.0["Q"].as_deref(), Some("from-file"));
    let web = &project.services["web"];
    assert_eq!(web.build.as_ref().unwrap().context, "/shop/base");
    assert_eq!(web.environment.0.len(), 2);
    assert_eq!(web.command.0.as_ref().unwrap().len(), 2);
    assert!(project.services["again"].command.0.is_none());
}

#[test]
fn files_of_2015_are_read() {
    let text = r#"
db:
  image: mysql
  ports: [3306:3306]
  environment: [P=1]
  log_driver: json-file
web:
  build: .
  dockerfile: Dockerfile.web
  links: [db:default]
  volumes: [data:/d, ./x:/x]
  volumes_from: [db, other]
  net: "container:db"
  mem_limit: 64m
"#;
    let loaded = loaded(&[text], &[]).unwrap_or_else(|e| panic!("{e}"));
    let project = loaded.project;
    assert!(project.legacy);
    let web = &project.services["web"];
    assert_eq!(web.network_mode, "service:db");
    assert_eq!(web.volumes_from, ["db", "container:other"]);
    assert_eq!(web.build.as_ref().unwrap().dockerfile, "Dockerfile.web");
    assert_eq!(web.depends_on.keys().collect::<Vec<_>>(), ["db"]);
    assert_eq!(project.volumes["data"].name, "data");
    assert_eq!(project.services["db"].logging.as_ref().unwrap().driver, "json-file");
    assert_eq!(project.services["db"].ports[0].published, "3306");
}

#[test]
fn profiles_and_selections_choose_services() {
    let text =
        "services: {a: {image: x, depends_on: [b]}, b: {image: x}, c: {image: x, profiles: [p]}}";
    let mut project = project(&[text]);
    assert_eq!(project.services.keys().collect::<Vec<_>>(), ["a", "b"]);
    project.enable(&["c".to_owned()]);
    assert_eq!(project.services.len(), 3);
    project.select(&["a".to_owned()], Selection::WithDependencies).unwrap();
    assert_eq!(project.services.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(project.select(&["no".to_owned()], Selection::Alone).is_err());
}

#[test]
fn mistakes_point_at_their_line() {
    let shown = loaded(&["services:\n  web:\n    imagee: x\n"], &[]).unwrap_err().to_string();
    let expected = "/shop/compose.yaml:3:5: validating /shop/compose.yaml: services.web additional properties 'imagee' not allowed\n   3 |     imagee: x\n     |     ^";
    assert_eq!(shown, expected);
    for (text, words) in [
        ("services:\n  a: {image: x, ports: 80}", &[":2:24:", "must be a array"][..]),
        ("services:\n  a: {image: x, image: y}", &[":2:17:", "already defined"]),
        ("services:\n  a: {image: \"${V:?set V}\"}", &["required variable V", "set V"]),
        (
            "services:\n  a: {image: \"${V\"}",
            &["invalid interpolation format for services.a.image"],
        ),
        ("services:\n  a: {image: x, init: maybe}", &["invalid boolean"]),
        ("services:\n  a: {image: x, ports: ['a:b']}", &[":2:25:", "invalid containerPort"]),
        ("services:\n  a: {}", &[":2:3:", "neither an image nor a build"]),
        ("services:\n  a: {image: x, volumes: ['vol:/v']}", &["undefined volume vol"]),
        ("services:\n  a: {image: x, networks: [n]}", &["undefined network n"]),
        ("services:\n  a: {image: x, depends_on: [b]}", &["undefined service \"b\""]),
        (
            "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}",
            &["dependency cycle detected: a -> b -> a"],
        ),
        (
            "services:\n  a: {image: x, volumes: ['/a:/t', '/b:/t:ro', {type: tmpfs, target: /t}]}",
            &[],
        ),
        ("services: [a]", &["services must be a mapping"]),
        ("- a", &["top-level object must be a mapping"]),
        ("services:\n\ta: {}", &["yaml:"]),
        ("services:\n  a: {image: !other x}", &["unknown tag"]),
        (
            "services: {a: {image: x, cpus: 1, deploy: {resources: {limits: {cpus: '2'}}}}}",
            &["can't set distinct values"],
        ),
        (
            "services: {a: {image: x, container_name: c, scale: 2}}",
            &["container name must be unique"],
        ),
        ("secrets: {s: {}}\nservices: {a: {image: x}}", &["one of file|environment must be set"]),
        ("x: 1\nservices: {a: {image: x}}", &["'x' not allowed"]),
    ] {
        if !words.is_empty() {
            refused(&[text], &[], words);
        }
    }
}

#[test]
fn cycles_and_bombs_are_refused() {
    let a = "include: [b.yaml]\nservices: {a: {image: x}}";
    let b = "include: [compose.yaml]\nservices: {b: {image: x}}";
    refused(&[a], &[("/shop/b.yaml", b), ("/shop/compose.yaml", a)], &["include cycle detected"]);
    refused(&["services: {a: {extends: b}, b: {extends: a}}"], &[], &["Circular reference"]);
    refused(&["services: &a {x: *a}"], &[], &["contains it"]);
    let mut bomb = "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for (new, old) in ["b", "c", "d", "e", "f", "g"].iter().zip(["a", "b", "c", "d", "e", "f"]) {
        bomb.push_str(&format!("x-{new}: &{new} [{}]\n", vec![format!("*{old}"); 10].join(",")));
    }
    refused(&[&bomb], &[], &["its aliases multiply"]);
    refused(&[&format!("x-a: {}{}", "[".repeat(70), "]".repeat(70))], &[], &["deep"]);
    refused(&["include: [oci://evil/x]\nservices: {a: {image: x}}"], &[], &["not supported"]);
}

#[test]
fn env_files_fill_the_environment() {
    let text = "services: {a: {image: x, env_file: [a.env, {path: no.env, required: false}], environment: {A: own}}}";
    let files = [("/shop/a.env", "A=file\nB=\"two $A\"\n")];
    let project = loaded(&[text], &files).unwrap_or_else(|e| panic!("{e}")).project;
    let environment = &project.services["a"].environment.0;
    assert_eq!(environment["A"].as_deref(), Some("own"));
    assert_eq!(environment["B"].as_deref(), Some("two own"));
    let text = "services: {a: {image: x, env_file: no.env}, b: {image: x}, c: {image: x, profiles: [p], env_file: a.env}}";
    let mut project = loaded(&[text], &files).unwrap_or_else(|e| panic!("{e}")).project;
    assert_eq!(project.readable(), Err("env file /shop/no.env not found"));
    project.enable(&["c".to_owned()]);
    project.select(&["b".to_owned(), "c".to_owned()], Selection::Alone).unwrap();
    assert_eq!(project.readable(), Ok(()), "a is not asked for");
    assert_eq!(project.services["c"].environment.0["A"].as_deref(), Some("file"));
}

#[test]
fn names_are_found_in_their_order() {
    let text = "name: from-${X:-file}\nservices: {a: {image: x}}";
    let name = |name: Option<&str>, text: &str| {
        let request = Request { name: name.map(str::to_owned), ..request(&[text]) };
        load(&request, &Memory::default()).map(|l| l.project.name)
    };
    assert_eq!(name(Some("flag"), text).unwrap(), "flag");
    assert_eq!(name(None, text).unwrap(), "from-file");
    assert_eq!(name(None, "services: {a: {image: x}}").unwrap(), "shop");
    assert!(name(Some("No!"), text).unwrap_err().to_string().contains("invalid project name"));
}

#[test]
fn scalars_are_quoted_as_go_quotes_them() {
    let text = r#"
services:
  a:
    image: x
    environment: {T: "true", Y: "y", N: "null", S: "*x", D: "- x", C: "a: b", L: " l", X: "1:30", E: "", B: "a\tb", O: 0755, Q: "it's: #q", M: "one\n  two\n"}
"#;
    let yaml = yaml(&[text]);
    for line in [
        "B: \"a\\tb\"",
        "C: 'a: b'",
        "D: '- x'",
        "E: \"\"",
        "L: ' l'",
        "\"N\": \"null\"",
        "O: \"493\"",
        "Q: 'it''s: #q'",
        "S: '*x'",
        "T: \"true\"",
        "X: \"1:30\"",
        "\"Y\": \"y\"",
        "M: |\n        one\n          two",
    ] {
        assert!(yaml.contains(line), "{line} is not in\n{yaml}");
    }
}

/// What is printed can be read again and says the same.
#[test]
fn config_is_its_own_fixed_point() {
    let text = "services: {a: {image: x, command: 'a $$b', ports: ['1-3:1-3'], secrets: [s], configs: [c]}}\nsecrets: {s: {file: ./f}}\nconfigs: {c: {content: \"x\\ny\"}}";
    let once = yaml(&[text]).replace('$', "$$");
    assert_eq!(yaml(&[&once]).replace('$', "$$"), once);
}

#[test]
fn every_value_knows_where_it_comes_from() {
    let files = Memory::with(&[("/p/web.env", "FROM_FILE=1\nOVER=file\n")]);
    let base = "services:\n  web:\n    image: shop:${TAG:-1}\n    env_file: web.env\n    environment:\n      - AROUND\n      - OVER=base\n";
    let over = "services:\n  web:\n    user: ${USER}\n    environment: {OVER: top}\n";
    let request = Request {
        files: vec![
            Text { name: "/p/a.yaml".to_owned(), text: base.to_owned() },
            Text { name: "/p/b.yaml".to_owned(), text: over.to_owned() },
        ],
        dir: "/p".to_owned(),
        env: [("USER", "me"), ("AROUND", "x")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect(),
        ..Request::default()
    };
    let loaded = load(&request, &files).unwrap_or_else(|e| panic!("{e}"));
    let origins = loaded.origins();
    let of = |path: &str| {
        let found = origins.iter().find(|o| o.path == path);
        let found = found.unwrap_or_else(|| panic!("no {path} in {origins:#?}"));
        let source = match &found.source {
            Source::Place { file, line, column } => format!("{file}:{line}:{column}"),
            Source::Default => "default".to_owned(),
            Source::EnvFile(file) => file.clone(),
        };
        (found.value.clone(), source, found.variables.join(","))
    };
    let is = |path: &str, value: &str, source: &str, variables: &str| {
        assert_eq!(of(path), (value.to_owned(), source.to_owned(), variables.to_owned()), "{path}");
    };
    is("services.web.image", "shop:1", "/p/a.yaml:3:12", "TAG");
    is("services.web.user", "me", "/p/b.yaml:3:11", "USER");
    is("services.web.environment.OVER", "top", "/p/b.yaml:4:25", "");
    is("services.web.environment.AROUND", "x", "/p/a.yaml:6:9", "AROUND");
    is("services.web.environment.FROM_FILE", "1", "/p/web.env", "");
    is("services.web.networks.default", "null", "default", "");
    is("networks.default.name", "p_default", "default", "");
}

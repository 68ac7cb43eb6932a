//! A file of 2015: a database, two Java services, and a proxy before them, joined by links.

use crate::{Tool, ids, import, page};
use wharf_test::docker::Output;
use wharf_test::{Host, eventually, image, tools};

const FILE: &str = include_str!("legacy/docker-compose.yml");
const MYSQL: &str = "daocloud.io/yjmyzz/mysql-osx:latest";

fn wharf(host: &Host, args: &[&str]) -> Output {
    Output::run(host.client(tools::wharf()).args(args), b"")
}

fn images(host: &Host) {
    for (name, dockerfile) in [
        ("mysql", include_str!("legacy/mysql.Dockerfile")),
        ("java", include_str!("legacy/java.Dockerfile")),
    ] {
        import(host, &format!("stack-{name}"));
        host.write(&format!("{name}/Dockerfile"), dockerfile.as_bytes());
        wharf(host, &["build", "-q", "-t", name, name]).ok();
    }
    host.docker(["tag", "mysql", MYSQL]).ok();
    host.load(&image::nginx());
}

fn files(host: &Host) {
    for (name, text) in [
        ("old/docker-compose.yml", FILE),
        ("old/nginx/nginx.conf", include_str!("legacy/nginx.conf")),
        ("old/nginx/conf.d/services.conf", include_str!("legacy/services.conf")),
        ("old/nginx/html/index.html", "<h1>2015</h1>\n"),
        ("old/java/Service.java", include_str!("legacy/Service.java")),
    ] {
        host.write(name, text.as_bytes());
    }
    let mount = format!("{}/old/java:/opt/app", host.dir().display());
    let script = "java -cp /usr/share/java/eclipse-jdt-core.jar \
                  org.eclipse.jdt.internal.compiler.batch.Main -17 -proc:none -d /tmp/classes Service.java && \
                  java -cp /tmp/classes Service --jar /tmp/classes spring-boot-rest-framework-1.0.0.jar";
    let run = ["run", "--rm", "-v", &mount, "-w", "/opt/app", "java", "sh", "-c", script];
    host.docker(run).ok();
}

/// Both services answer through the proxy with what the database says, by variable and by name.
#[track_caller]
fn serves(host: &Host) {
    assert_eq!(eventually("nginx answers", || page(host, "127.0.0.1:80", "/")), "<h1>2015</h1>");
    let mut hosts = Vec::new();
    for service in ["one", "two"] {
        for path in ["", "alias"] {
            let text = eventually("a service has asked the database", || {
                page(host, "127.0.0.1:80", &format!("/{service}/{path}"))
            });
            let (name, row) = text.split_once(' ').expect("host and row");
            assert_eq!(row, "lantern", "{service}/{path}");
            hosts.push(name.to_owned());
        }
    }
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), 2, "two services answer: {hosts:?}");
}

#[test]
fn the_file_of_2015_serves_two_java_services_from_its_database() {
    let host = Host::start();
    images(&host);
    files(&host);
    Tool::Wharf.run(&host, "old", &["up", "-d"]).ok();
    let sql = "CREATE DATABASE shop; CREATE TABLE shop.item (name TEXT); INSERT INTO shop.item VALUES ('lantern')";
    eventually("the database takes a row", || {
        let args =
            ["exec", "-T", "mysql", "mariadb", "-h127.0.0.1", "-uroot", "-p123456", "-e", sql];
        (Tool::Wharf.run(&host, "old", &args).code == 0).then_some(())
    });
    serves(&host);
    let made = ids(&host, "old");
    assert_eq!(made.len(), 4);
    Tool::Wharf.run(&host, "old", &["up", "-d"]).ok();
    assert_eq!(ids(&host, "old"), made, "a second up changes nothing");
    // Stock Compose does not read the old file, but its modern form; the data is on the host.
    let modern = Tool::Wharf.run(&host, "old", &["config"]).ok();
    host.write("old/compose.yaml", modern.as_bytes());
    Tool::Wharf.run(&host, "old", &["-f", "docker-compose.yml", "down", "-t", "2"]).ok();
    assert_eq!(ids(&host, "old"), [""; 0]);
    Tool::Stock.run(&host, "old", &["-f", "compose.yaml", "up", "-d"]).ok();
    assert_eq!(eventually("nginx answers", || page(&host, "127.0.0.1:80", "/")), "<h1>2015</h1>");
    let text = eventually("by the link's name", || page(&host, "127.0.0.1:80", "/two/alias"));
    assert!(text.ends_with(" lantern"), "{text}");
    Tool::Stock.run(&host, "old", &["-f", "compose.yaml", "down", "-t", "2"]).ok();
    assert_eq!(ids(&host, "old"), [""; 0]);
}

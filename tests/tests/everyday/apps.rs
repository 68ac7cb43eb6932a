//! The applications: each is built everywhere, and runs.

use std::process::Command;

use wharf_test::{Host, Output, eventually, tools};

use crate::lab::Lab;

const PATH: &str = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const JAVA: &str = "ENV JAVA_HOME=/usr/lib/jvm/default-java";

/// Starts `app` and waits until a page says `text`.
fn serves(host: &Host, port: u16, path: &str, text: &str) {
    let publish = format!("18080:{port}");
    host.docker(["run", "-d", "--name", "web", "-p", &publish, "app"]).exits(0);
    eventually("the page is served", || {
        let page = host.get("127.0.0.1:18080", path).ok()?;
        page.text().contains(text).then_some(())
    });
}

#[test]
fn a_web_application_in_tomcat() {
    let lab = Lab::start(
        "java-root",
        "tomcat",
        &[
            "ENV PATH=/usr/share/tomcat10/bin:/usr/lib/jvm/default-java/bin:/usr/bin:/bin",
            JAVA,
            "ENV CATALINA_HOME=/usr/share/tomcat10",
            "ENV CATALINA_BASE=/var/lib/tomcat10",
            "EXPOSE 8080",
            "CMD [\"catalina.sh\",\"run\"]",
        ],
    );
    lab.file(
        "Dockerfile",
        "FROM tomcat\nMAINTAINER Somebody <somebody@example.com>\n\
         RUN rm -rf /var/lib/tomcat10/webapps/* && mkdir -p /var/lib/tomcat10/webapps\n\
         COPY shop.zip /var/lib/tomcat10/webapps/shop.war\nENV TZ=Asia/Shanghai\n\
         RUN ln -snf /usr/share/zoneinfo/$TZ /etc/localtime && echo $TZ > /etc/timezone\n",
    );
    lab.file("site/index.html", "<h1>the shop</h1>").file("site/WEB-INF/web.xml", "<web-app/>");
    let mut zip = Command::new(tools::path("python3"));
    zip.args(["-m", "zipfile", "-c", "../shop.zip", "index.html", "WEB-INF"]);
    Output::of(zip.current_dir(lab.context().join("site")), b"").exits(0);
    std::fs::remove_dir_all(lab.context().join("site")).unwrap();
    let archive = std::fs::read(lab.context().join("shop.zip")).unwrap();
    lab.compare("shop.zip", |n| format!("no archive, {n}"));
    lab.file("shop.zip", archive);
    let host = &lab.wharf;
    let mut build = host.client(tools::wharf());
    Output::of(build.args(["build", "-q", "-t", "app"]).arg(lab.context()), b"").exits(0);
    assert_eq!(host.docker(["run", "--rm", "app", "date", "+%Z %z"]).ok(), "CST +0800");
    assert_eq!(host.inspect("app", "{{.Author}}"), "Somebody <somebody@example.com>");
    serves(host, 8080, "/shop/index.html", "the shop");
}

#[test]
fn a_java_program_in_two_stages() {
    let lab = Lab::start(
        "java-root",
        "jdk",
        &["ENV PATH=/usr/lib/jvm/default-java/bin:/usr/bin:/bin", JAVA],
    );
    lab.file(
        "Dockerfile",
        "ARG VERSION=17\nFROM jdk AS build\nARG VERSION\nWORKDIR /src\nCOPY src ./\n\
         RUN javac --release $VERSION -d /out app/Main.java\n\
         FROM jdk\nLABEL stage=\"run time\" version=1\nWORKDIR /app\nCOPY --from=build /out ./\n\
         USER www-data:www-data\nENTRYPOINT [\"java\", \"-cp\", \"/app\", \"app.Main\"]\nCMD [\"nobody\"]\n",
    );
    let main = |n: usize| {
        let word = format!("hello {n}");
        format!(
            "package app;\npublic class Main {{ public static void main(String[] a) {{ System.out.println(\"{word} \" + a[0] + \" as \" + System.getProperty(\"user.name\")); }} }}\n"
        )
    };
    lab.compare("src/app/Main.java", main);
    assert_eq!(lab.wharf.docker(["run", "--rm", "app"]).ok(), "hello 9 nobody as www-data");
    assert_eq!(lab.wharf.docker(["run", "--rm", "app", "you"]).ok(), "hello 9 you as www-data");
}

#[test]
fn a_static_program_into_scratch() {
    let lab = Lab::start("gcc-root", "gcc", &[PATH]);
    lab.file(
        "Dockerfile",
        "FROM gcc AS build\nWORKDIR /src\nCOPY main.c Makefile* ./\n\
         RUN gcc -O1 -static -o /hello main.c && strip /hello\n\
         FROM scratch\nCOPY --from=build /hello /hello\nEXPOSE 7/udp\nENTRYPOINT [\"/hello\"]\n",
    );
    let main = |n: usize| {
        let word = format!("hello {n}");
        format!(
            "#include <stdio.h>\nint main(void) {{ puts(\"{word} from nowhere\"); return 3; }}\n"
        )
    };
    lab.compare("main.c", main);
    let ran = lab.wharf.docker(["run", "--rm", "app"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "hello 9 from nowhere\n"));
}

#[test]
fn a_python_application_with_cache_mounts() {
    let lab = Lab::start("pip-root", "python", &[PATH]).needs_buildkit();
    lab.file(
        "Dockerfile",
        "FROM python\nENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_INDEX=1\nWORKDIR /app\n\
         COPY pkg pkg\n\
         RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
         --mount=type=bind,source=requirements.txt,target=/requirements.txt \
         test -z \"$(cat /requirements.txt)\" && touch /root/.cache/pip/used && \
         pip3 install --no-build-isolation --no-compile --break-system-packages ./pkg && rm -rf pkg\n\
         RUN --mount=type=cache,target=/root/.cache/pip test -e /root/.cache/pip/used\n\
         HEALTHCHECK --interval=1m CMD greet\nCMD [\"greet\"]\n",
    );
    lab.file("requirements.txt", "");
    lab.file(
        "pkg/setup.py",
        "from setuptools import setup\nsetup(name='greet', version='1', py_modules=['greet'], \
         entry_points={'console_scripts': ['greet=greet:main']})\n",
    );
    lab.compare("pkg/greet.py", |n| format!("def main():\n    print('hello {n} from python')\n"));
    assert_eq!(lab.wharf.docker(["run", "--rm", "app"]).ok(), "hello 9 from python");
}

#[test]
fn a_site_on_nginx() {
    let lab = Lab::start(
        "nginx",
        "nginx",
        &[
            PATH,
            "EXPOSE 80",
            "STOPSIGNAL SIGQUIT",
            "ENTRYPOINT [\"nginx\"]",
            "CMD [\"-g\",\"daemon off;\"]",
        ],
    );
    lab.file(
        "Dockerfile",
        "FROM nginx\nCOPY site.conf /etc/nginx/conf.d/default.conf\nCOPY html/ /srv/html/\nADD extra.tar.gz /srv/html/\n\
         VOLUME /var/cache/nginx\nEXPOSE 8081\n",
    );
    lab.file(".dockerignore", "**/*.log\n");
    lab.file("site.conf", "server { listen 80; root /srv/html; }\n");
    lab.file("html/debug.log", "x").file("html/deep/er.html", "deep");
    lab.file("extra.html", "from an archive");
    let mut tar = Command::new("tar");
    tar.args(["-czf", "extra.tar.gz", "--owner=5", "--group=6", "extra.html"]);
    Output::of(tar.current_dir(lab.context()), b"").exits(0);
    lab.compare("html/index.html", |n| format!("page {n}"));
    serves(&lab.wharf, 80, "/", "page 9");
    assert_eq!(lab.wharf.get("127.0.0.1:18080", "/extra.html").unwrap().text(), "from an archive");
    assert_eq!(lab.wharf.get("127.0.0.1:18080", "/debug.log").unwrap().status, 404);
}

#[test]
fn a_database_in_mariadb() {
    let lab =
        Lab::start("mariadb-root", "mariadb", &[PATH, "EXPOSE 3306"]).volatile(&["var/lib/mysql/"]);
    lab.file(
        "Dockerfile",
        "FROM mariadb\nCOPY my.cnf /etc/mysql/my.cnf\n\
         RUN mkdir -p /run/mysqld && mariadb-install-db --user=root --auth-root-authentication-method=normal \
         --skip-test-db --datadir=/var/lib/mysql > /dev/null\n\
         COPY init.sql /etc/mysql/init.sql\n\
         CMD [\"mariadbd\", \"--user=root\", \"--init-file=/etc/mysql/init.sql\"]\n",
    );
    lab.file("my.cnf", "[mariadbd]\ninnodb_log_file_size=4M\nskip_name_resolve\n");
    let sql = |n: usize| {
        let word = format!("hello {n}");
        format!(
            "CREATE DATABASE shop;\nCREATE TABLE shop.t (word TEXT);\nINSERT INTO shop.t VALUES ('{word}');\n"
        )
    };
    lab.compare("init.sql", sql);
    let host = &lab.wharf;
    host.docker(["run", "-d", "--name", "db", "app"]).exits(0);
    let ask = || {
        let answer = host.docker(["exec", "db", "mariadb", "-N", "-e", "SELECT word FROM shop.t"]);
        (answer.code == 0).then(|| answer.stdout.trim().to_owned())
    };
    assert_eq!(eventually("the database answers", ask), "hello 9");
}

//! Scripts that make, change and remove things; each starts on a host with busybox and nothing else.

/// Containers in the foreground.
pub(crate) const RUNS: &[&str] = &[
    "run busybox echo hello",
    r#"run --rm busybox sh -c "echo out; echo err >&2; exit 7""#,
    "run --rm -i busybox cat <<< some\\ninput\\n",
    "run -i --rm busybox wc -c <<< abc",
    "run --name aa busybox true",
    "start aa",
    "start -a aa",
    "wait aa",
    "rm aa",
    "rm aa",
];

/// One container, from its start to its end.
pub(crate) const LIFE: &[&str] = &[
    "run -d --name aa busybox sleep 1000",
    r#"ps --format "{{.Names}} {{.Image}} {{.Command}}""#,
    "pause aa",
    r#"ps --format "{{.Names}} {{.State}}""#,
    "pause aa",
    "unpause aa",
    r#"exec aa sh -c "echo x > /x""#,
    "diff aa",
    "stop -t 0 aa",
    r#"inspect -f "{{.State.Status}} {{.State.ExitCode}}" aa"#,
    "start aa",
    "kill aa",
    "wait aa",
    "restart -t 0 aa",
    "restart --time 0 aa",
    "stop --time 0 aa",
    "stop aa",
    "rename aa bb",
    "rename aa cc",
    r#"inspect -f "{{.Name}}" bb"#,
    "rm -f bb",
    "rm -f bb",
];

/// A container that is made first and started later.
pub(crate) const CREATED: &[&str] = &[
    r#"create --name aa busybox sh -c "echo created; exit 3""#,
    "start -a aa",
    "logs aa",
    "start -ai aa",
    "rm -v aa",
];

/// As many options as one container can have.
pub(crate) const OPTIONS: &[&str] = &[
    "run -d --name aa -e A=1 -l x=y -w /tmp -u 1000:50 -h host1 --add-host h:1.2.3.4 --dns 9.9.9.9 --dns-search s --memory 64m --cpus 0.5 --pids-limit 50 --cap-add NET_ADMIN --cap-drop MKNOD --read-only --tmpfs /t:size=1m --ulimit nofile=10:20 --sysctl net.ipv4.ip_forward=1 --shm-size 1m --restart on-failure:3 --stop-signal INT --stop-timeout 0 --security-opt no-new-privileges --oom-score-adj 10 --init --expose 99 -p 127.0.0.1:8099:99/udp -v vv:/v:ro --mount type=tmpfs,dst=/tm --label-file /dev/null --group-add 1 --health-cmd true --health-interval 5s --log-opt max-size=1m --annotation q=r --blkio-weight 0 --cpu-shares 100 --device /dev/null:/dev/n --ipc private --userns host --cgroupns private busybox sleep 1000",
    r#"inspect --format "{{json .Config}}" aa"#,
    r#"inspect --format "{{json .HostConfig}}" aa"#,
    "exec aa id",
    "exec aa env",
    "port aa",
    "update --memory 32m --memory-swap 64m --restart no aa",
    r#"inspect -f "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy}}" aa"#,
    "rm -f aa",
];

/// What is mounted, and what cannot be.
pub(crate) const MOUNTS: &[&str] = &[
    "run --entrypoint /bin/echo --rm busybox aa b c",
    r#"run --rm --entrypoint "" busybox"#,
    "run --rm --network none busybox ip -o addr",
    "run --rm --network host busybox hostname",
    "run --rm -v /nothing1/x:/y busybox ls -d /y",
    "run --rm --mount type=bind,src=/nothing2,dst=/y busybox true",
    r#"run --rm -v vol9:/data busybox sh -c "echo 1 > /data/f""#,
    r#"run --rm -v vol9:/data:ro busybox sh -c "cat /data/f; echo 2 > /data/g""#,
    "volume rm vol9",
    "volume rm vol9",
    "volume rm -f vol9",
];

/// Exit codes and terminals.
pub(crate) const ENDINGS: &[&str] = &[
    r#"run --rm busybox sh -c "kill -9 $$""#,
    r#"run --rm busybox sh -c "kill -TERM $$; sleep 1""#,
    r#"run --rm --stop-timeout 0 --memory 16m busybox sh -c "exit 255""#,
    r#"run -t --rm busybox sh -c "tty; stty size""#,
    "run -d --rm --name qq busybox sleep 1000",
    "attach --no-stdin --sig-proxy=false nothing",
    "kill -s KILL qq",
    "kill -s BOGUS qq",
];

/// Volumes.
pub(crate) const VOLUMES: &[&str] = &[
    "volume create v1",
    "volume create v1",
    "volume create --label a=b --opt type=tmpfs --opt device=tmpfs v2",
    "volume create --driver bogus v3",
    "volume create bad/name",
    "volume ls",
    "volume ls --filter name=v1 -q",
    r#"volume inspect -f "{{.Labels}} {{.Options}}" v2"#,
    "volume rm v1 v2",
    "volume prune <<< n\\n",
    "volume prune <<< y\\n",
    "volume prune -f",
    "volume prune -af",
];

/// Networks.
pub(crate) const NETWORKS: &[&str] = &[
    "network create --label a=b --subnet 10.77.0.0/24 --gateway 10.77.0.1 n1",
    "network create --driver bogus n2",
    "network create n1",
    r#"network inspect -f "{{json .IPAM}} {{.Labels}}" n1"#,
    "network ls --filter name=n1",
    "run -d --name aa --network n1 --network-alias z --ip 10.77.0.9 busybox sleep 1000",
    r#"inspect -f "{{json .NetworkSettings.Networks}}" aa"#,
    "network rm n1",
    "network disconnect n1 aa",
    "network connect n1 aa",
    "rm -f aa",
    "network rm n1",
    "network prune -f",
    "network prune <<< \\n",
];

/// Names of images.
pub(crate) const TAGS: &[&str] = &[
    "tag busybox one:1",
    "tag busybox two",
    "rmi one:1",
    "rmi one:1",
    "rmi -f two",
    "rmi busybox:nothing",
];

/// Images from containers, files in both directions, archives, prunes.
pub(crate) const IMAGES: &[&str] = &[
    r#"run --name aa busybox sh -c "echo hi > /hi; mkdir /dd; echo 1 > /dd/1""#,
    r#"commit -m msg -a me -c "CMD [\"cat\",\"/hi\"]" -c "ENV Q=1" aa img:1"#,
    "run --rm img:1",
    r#"history --format "{{.Comment}} {{.CreatedBy}} {{.Size}}" img:1"#,
    r#"image inspect -f "{{.Config.Cmd}} {{.Author}} {{.Comment}} {{.Config.Env}}" img:1"#,
    "commit aa",
    "diff aa",
    "cp aa:/hi out1",
    "cp aa:/dd out2",
    "cp aa:/dd/. out2",
    "cp aa:/dd/. out6",
    "cp aa:/dd/ out7/",
    "cp aa:/ out8",
    "cp out1 aa:/copied",
    "cp out2 aa:/copied2",
    "cp out2/. aa:/etc",
    "cp nosuch aa:/x",
    "cp out1 aa:/nosuch/x",
    "cp out1 aa:/nosuch/",
    "cp - aa:/tmp <<< garbage",
    "cp -q aa:/copied out3",
    "cp -a aa:/copied out4",
    "cp -L aa:/bin/sh out5",
    "diff aa",
    "export -o ex.tar aa",
    "import ex.tar imp:1",
    r#"import -c "CMD [\"echo\",\"imported\"]" -m "why" ex.tar imp:2"#,
    "run --rm imp:2",
    "save -o sv.tar img:1",
    "save -o sv2.tar img:1 busybox",
    "save img:nothing",
    "rmi img:1",
    "load -i sv.tar",
    "load -qi sv.tar",
    "image prune <<< n\\n",
    "image prune -f",
    "image prune -af --filter label=zzz",
    "container prune <<< n\\n",
    "container prune <<< y\\n",
    "container prune -f",
    "system prune <<< n\\n",
    "system prune -f --filter label=nothing",
];

/// Output of a container that ends.
pub(crate) const LOGS: &[&str] = &[
    r#"run -d --name aa busybox sh -c "i=0; while [ $i -lt 3 ]; do echo line $i; i=$((i+1)); sleep 0.1; done""#,
    "logs -f aa",
    "logs --tail 1 aa",
    "logs --tail 0 aa",
    "logs -t --tail 1 aa",
    "logs -f --since 1h aa",
    "attach aa",
    "wait aa",
    "exec aa true",
    r#"container ls -aq --filter name=^aa$ --format "{{.Names}}""#,
    r#"system df --format "{{.Type}} {{.TotalCount}} {{.Active}}""#,
    "events --since 10s --until 0s --filter container=nothing",
    "rm -f aa nothing",
];

/// A container that does not stay up, and changes to it.
pub(crate) const RESTARTS: &[&str] = &[
    r#"run -d --name aa --restart always busybox sh -c "exit 1""#,
    "update --restart no aa",
    "update --cpus 1 --cpu-period 100 aa",
    "update --memory 1 aa",
    "update --memory bogus aa",
    r#"inspect -f "{{.HostConfig.RestartPolicy.Name}}" aa"#,
    "stop -t 0 aa",
    "rm aa",
];

/// Ports, names and namespaces that are taken or shared; contexts; registries.
pub(crate) const SHARING: &[&str] = &[
    "run -d --name aa -p 8000:80 busybox sleep 1000",
    "run -d --name bb -p 8000:80 busybox sleep 1000",
    r#"ps -a --filter name=bb --format "{{.Status}} {{.Ports}}""#,
    "run --name aa busybox",
    "run --rm --name cc --link aa:al busybox grep al /etc/hosts",
    "run --rm --volumes-from aa busybox true",
    "run --rm --pid container:aa busybox ps",
    "run --rm --network container:aa busybox hostname",
    "container rm -f aa bb",
    "run --cidfile cid --rm busybox true",
    "run --cidfile cid --rm busybox true",
    "run --detach --rm --quiet busybox true",
    "run --pull never --rm busybox echo pulled",
    "login -u u -p p 127.0.0.1:1",
    "logout 127.0.0.1:1",
    "context create c1 --docker host=unix:///x",
    "context ls",
    "context inspect c1",
    "context use c1",
    "context use default",
    "context rm c1",
    "context rm c1",
];

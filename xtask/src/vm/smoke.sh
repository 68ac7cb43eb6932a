# An engine on cgroup v2, driven by its own command line: each line that begins with `check` is a test.
passed=0; failed=0
check() {
    name=$1; shift
    if out=$("$@" 2>&1); then passed=$((passed+1)); echo "test smoke::$name ... ok"
    else failed=$((failed+1)); echo "test smoke::$name ... FAILED"; echo "$out"; fi
}
wharf daemon --data-root /var/lib/wharf --exec-root /run/wharf -H unix:///run/wharf.sock > /run/wharf.log 2>&1 &
export DOCKER_HOST=unix:///run/wharf.sock
n=0
until wharf version > /dev/null 2>&1 || [ $n -ge 600 ]; do n=$((n+1)); sleep 0.1; done
busybox_image() { tar -C /etc/image -c . | wharf import -c 'CMD ["sh"]' - busybox; }
page() { n=0; until wget -qO- http://127.0.0.1:91/ || [ $n -ge 100 ]; do n=$((n+1)); sleep 0.1; done | grep -q "$(wharf ps -q --filter name=web)"; }
limited() { [ "$(wharf run --rm --memory 32m busybox cat /sys/fs/cgroup/memory.max)" = 33554432 ]; }
oom() { wharf run --name oom --memory 16m --memory-swap 16m busybox sh -c 'x=$(head -c 99999999 /dev/zero | tr "\0" x)'
    [ "$(wharf inspect -f '{{.State.OOMKilled}}' oom)" = true ]; }
paused() { wharf pause web && wharf ps | grep -q Paused && wharf unpause web; }
devices() { wharf run --rm busybox sh -c 'mknod /x c 1 8 && ! head -c1 /x; mknod /y c 10 200; ! head -c1 /y'; }
# What the machine at hand may lack: 802.1Q and ipvlan.
ip link add lan0 type dummy && ip link set lan0 up
children() { wharf network create -d "$1" --subnet "$2" -o parent=lan0"$3" "$1$3" &&
    wharf run -d --name "on-$1" --stop-timeout 0 --network "$1$3" busybox sleep 1000 &&
    wharf run --rm --network "$1$3" busybox ping -c1 -W10 "on-$1" &&
    wharf rm -f "on-$1" && wharf network rm "$1$3"; }
vlan() { children macvlan 10.6.0.0/24 .50 && ! [ -e /sys/class/net/lan0.50 ]; }
ipvlan() { children ipvlan 10.7.0.0/24 "" && wharf network create -d ipvlan -o parent=lan0 -o ipvlan_mode=l3 l3; }
tagged() { wharf run -d --name tagged --stop-timeout 0 busybox sleep 1000 &&
    wharf network attach --parent lan0 --vlan 7 --ip 10.8.0.2/24 tagged &&
    wharf exec tagged ip -o addr show eth1.7 | grep -q 10.8.0.2 && wharf rm -f tagged; }
check import busybox_image
# Without it the acceptance test of SCTP ends early.
check sctp [ -d /proc/net/sctp ]
check vlan vlan
check tagged tagged
check ipvlan ipvlan
check hello wharf run --rm hello-world
check serve wharf run -d --name web -p 91:80 wharf/welcome
check page page
check pause paused
check stats wharf stats --no-stream web
check memory limited
check oom oom
check pids wharf run --rm --pids-limit 5 busybox grep -q 5 /sys/fs/cgroup/pids.max
check cpus wharf run --rm --cpus 0.5 busybox grep -q '50000 100000' /sys/fs/cgroup/cpu.max
check update wharf update --memory 64m --memory-swap 64m web
check stop wharf stop web
check remove wharf rm web oom
[ $failed = 0 ] || { echo "vm: the engine's log"; tail -40 /run/wharf.log; }
echo "test result: smoke. $passed passed; $failed failed;"

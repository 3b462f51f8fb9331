//! Servers and languages as Debian ships them, under the default profile: one container each, with the
//! stock configuration where there is one. All clients are inside: a container has only loopback.

use boxship::{ByteSize, ContainerBuilder, Engine, Output};
use libtest_mimic::Trial;

use crate::need::Need::{Cgroups, Root as NeedRoot, Software};
use crate::need::software;
use crate::{test, text};

pub fn tests() -> Vec<Trial> {
    let needs = &[NeedRoot, Cgroups, Software];
    vec![
        test("software_apt_installs_a_package", needs, apt),
        test("software_nginx_serves_and_reloads", needs, nginx),
        test("software_redis_keeps_what_is_set", needs, redis),
        test("software_postgres_keeps_what_is_committed", needs, postgres),
        test("software_python_threads_processes_sockets_sqlite", needs, python),
        test("software_node_http_and_workers", needs, node),
        test("software_java_threads_sockets_processes", needs, java),
        test("software_sshd_as_root_needs_sys_chroot", needs, sshd_of_root),
        test("software_sshd_as_its_only_user", needs, sshd_of_a_user),
    ]
}

/// The suite's engine with the image `software:1`, which is imported once.
async fn engine() -> Engine {
    static IMPORTED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let e = crate::engine().await;
    let import = async {
        e.image().import(software()).tag("software:1").command(["/bin/bash"]).await.expect("imported");
    };
    IMPORTED.get_or_init(|| import).await;
    e
}

/// What the scripts share: they stop at the first failure, and wait for a server by asking it.
const PRELUDE: &str = r#"
set -euo pipefail
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
until_ok() {
    local i
    for i in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    echo "never: $*" >&2
    return 1
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
"#;

fn limited(e: &Engine) -> ContainerBuilder {
    e.container()
        .image("software:1")
        .memory_limit(ByteSize::mib(512))
        .pids_limit(256)
        .timeout(std::time::Duration::from_secs(240))
}

fn bash(e: &Engine, script: &str) -> ContainerBuilder {
    limited(e).command(["/bin/bash", "-c", &format!("{PRELUDE}{script}")])
}

/// What a container wrote, if it ended well and within its limits.
fn good(out: Output) -> String {
    assert!(
        out.status.success() && !out.timed_out && !out.status.oom_killed(),
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    text(out)
}

async fn apt() {
    let script = r#"
command -v hello && exit 1
apt-get install -y /srv/packages/hello_*_amd64.deb >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
hello
dpkg-query -W -f '${Package} ${Status}\n' hello
dpkg --verify hello
stat -c '%U:%G %a' /usr/bin/hello
apt-get remove -y hello >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
test -e /usr/bin/hello || echo removed
"#;
    let out = good(bash(&engine().await, script).output().await.expect("runs"));
    assert_eq!(out, "Hello, world!\nhello install ok installed\nroot:root 755\nremoved\n");
}

async fn nginx() {
    let script = r#"
fetch() { # path -> status line, empty line, body
    exec 3<>/dev/tcp/127.0.0.1/80
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
    tr -d '\r' <&3 | sed -n '1p;/^$/,$p'
    exec 3>&-
}
echo 'page one' >/var/www/html/page
head -c 3000000 /dev/zero | tr '\0' x >/var/www/html/big
nginx -t 2>/tmp/test || { cat /tmp/test >&2; exit 1; }
nginx -g 'daemon off;' & server=$!
until_ok listens 80
fetch /page
fetch /none | head -n 1
fetch /big | tail -n 1 | wc -c
for p in /proc/[0-9]*; do
    case $(tr '\0' ' ' <"$p/cmdline") in 'nginx: worker process'*) stat -c 'worker of %U' "$p" ;; esac
done | sort -u
echo 'server { listen 81; return 200 "reloaded\n"; }' >/etc/nginx/sites-enabled/more
nginx -s reload
until_ok listens 81
exec 3<>/dev/tcp/127.0.0.1/81
printf 'GET / HTTP/1.0\r\n\r\n' >&3
tail -n 1 <&3
exec 3>&-
nginx -s quit
wait $server
listens 80 2>/dev/null || echo stopped
grep -c . /var/log/nginx/access.log
grep -E 'emerg|alert|crit|Operation not permitted' /var/log/nginx/error.log || true
"#;
    let out = good(bash(&engine().await, script).output().await.expect("runs"));
    assert_eq!(
        out,
        "HTTP/1.1 200 OK\n\npage one\nHTTP/1.1 404 Not Found\n3000000\nworker of www-data\nreloaded\nstopped\n4\n"
    );
}

async fn redis() {
    let script = r#"
cd /var/lib/redis
serve() {
    setpriv --reuid=redis --regid=redis --init-groups --reset-env \
        redis-server /etc/redis/redis.conf --daemonize no --logfile '' >/tmp/log 2>&1 & server=$!
    until_ok redis-cli ping
}
trap 'tail -n 20 /tmp/log >&2' ERR
serve
stat -c 'server of %U' /proc/$server
redis-cli set greeting 'hello there'
redis-cli get greeting
seq 1000 | sed 's/.*/rpush numbers &/' | redis-cli --pipe | tail -n 1
redis-cli eval 'local s = 0 for _, n in ipairs(redis.call("lrange", "numbers", 0, -1)) do s = s + n end return s' 0
redis-cli bgsave # a forked child writes
until_ok test -s dump.rdb
redis-cli shutdown save
wait $server
serve
redis-cli get greeting
redis-cli llen numbers
redis-cli shutdown nosave
wait $server
grep -c 'bye bye' /tmp/log
"#;
    let out = good(bash(&engine().await, script).output().await.expect("runs"));
    assert_eq!(
        out,
        "server of redis\nOK\nhello there\nerrors: 0, replies: 1000\n500500\nBackground saving started\nhello there\n1000\n1\n"
    );
}

async fn postgres() {
    let script = r#"
bin=$(echo /usr/lib/postgresql/*/bin)
mkdir /var/lib/postgresql/data
chown postgres: /var/lib/postgresql/data
as() { runuser -u postgres -- env PGDATA=/var/lib/postgresql/data "$@"; }
sql() { as psql -X -qAt -v ON_ERROR_STOP=1 -c "$1"; }
trap 'cat /tmp/initdb /tmp/pg.log >&2' ERR
cd /var/lib/postgresql
as "$bin/initdb" -A peer >/tmp/initdb 2>&1
as "$bin/pg_ctl" start -w -l /tmp/pg.log >/dev/null
sql 'create table t (n int primary key, s text); create index on t (s)'
sql "insert into t select n, md5(n::text) from generate_series(1, 50000) n"
sql 'begin; delete from t; rollback'
sql 'select count(*), sum(n), min(s) from t'
sql 'set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
    set min_parallel_table_scan_size = 0; select count(*) from t where s like $$a%$$'
sql "select usename || ' ' || current_setting('dynamic_shared_memory_type') from pg_user"
sql 'insert into t values (1)' 2>&1 | head -n 1 || true
as "$bin/pg_ctl" stop -m fast >/dev/null
grep -c 'database system is shut down' /tmp/pg.log
as "$bin/pg_ctl" start -w -l /tmp/pg.log >/dev/null
sql 'select count(*) from t'
stat -c 'data of %U, %a' data
as "$bin/pg_ctl" stop -m fast >/dev/null
grep -E 'FATAL|PANIC|not permitted|automatic recovery' /tmp/pg.log || true
"#;
    let out = good(bash(&engine().await, script).output().await.expect("runs"));
    // md5(1..=50000), computed apart: the least, and how many begin with an a.
    assert_eq!(
        out,
        "50000|1250025000|00003e3b9e5336685200ae85d21b4f5e\n3079\npostgres posix\n\
         ERROR:  duplicate key value violates unique constraint \"t_pkey\"\n1\n50000\ndata of postgres, 700\n"
    );
}

async fn python() {
    let program = r#"
import hashlib, multiprocessing, os, socket, sqlite3, subprocess, sys, tempfile, threading
total, lock = 0, threading.Lock()
def add(n):
    global total
    for _ in range(1000):
        with lock: total += n
threads = [threading.Thread(target=add, args=(n,)) for n in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
print("threads", total)
print("subprocess", subprocess.run(["tr", "a-z", "A-Z"], input=b"shout", stdout=subprocess.PIPE, check=True).stdout.decode())
with multiprocessing.Pool(4) as pool: # semaphores in /dev/shm
    print("processes", sum(pool.map(abs, range(-100, 0))))
for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, tempfile.mktemp())):
    server = socket.socket(family); server.bind(address); server.listen()
    def serve():
        peer, _ = server.accept()
        with peer:
            data = b""
            while chunk := peer.recv(65536): data += chunk
            peer.sendall(hashlib.sha256(data).hexdigest().encode())
    t = threading.Thread(target=serve); t.start()
    with socket.socket(family) as client:
        client.connect(server.getsockname()); client.sendall(b"x" * 1000000); client.shutdown(socket.SHUT_WR)
        got = client.recv(100).decode()
    t.join(); server.close()
    print(family.name, got == hashlib.sha256(b"x" * 1000000).hexdigest())
path = tempfile.mkdtemp() + "/db"
with sqlite3.connect(path) as db:
    db.execute("pragma journal_mode = wal") # a shared mapping and file locks
    db.execute("create table t (n integer primary key, s text)")
    db.executemany("insert into t values (?, ?)", ((n, str(n) * 3) for n in range(10000)))
print("sqlite", sqlite3.connect(path).execute("select count(*), sum(n), max(length(s)) from t").fetchone())
print("user", os.getuid(), sys.version_info.major)
"#;
    let c = limited(&engine().await).command(["/usr/bin/python3", "-"]).stdin(program);
    assert_eq!(
        good(c.output().await.expect("runs")),
        "threads 120000\nsubprocess SHOUT\nprocesses 5050\nAF_INET True\nAF_UNIX True\n\
         sqlite (10000, 49995000, 12)\nuser 0 3\n"
    );
}

async fn node() {
    let program = r#"
const http = require('http'), { Worker } = require('worker_threads');
const { execFileSync } = require('child_process'), fs = require('fs'), crypto = require('crypto');
const work = n => new Promise((yes, no) => {
  const w = new Worker('const {parentPort:p,workerData:n}=require("worker_threads");let s=0;for(let i=1;i<=n;i++)s+=i;p.postMessage(s)',
    { eval: true, workerData: n });
  w.on('message', yes); w.on('error', no);
});
const get = (port, path) => new Promise((yes, no) => http.get({ host: '127.0.0.1', port, path }, r => {
  let body = ''; r.on('data', d => body += d); r.on('end', () => yes(`${r.statusCode} ${body}`));
}).on('error', no));
(async () => {
  const server = http.createServer((q, r) => { r.statusCode = q.url === '/' ? 200 : 404; r.end('you asked for ' + q.url); });
  await new Promise(yes => server.listen(0, '127.0.0.1', yes));
  const port = server.address().port;
  console.log(await get(port, '/'));
  console.log(await get(port, '/none'));
  await new Promise(yes => server.close(yes));
  console.log('workers', (await Promise.all([10, 1000, 100000].map(work))).join(' '));
  console.log('child', execFileSync('cat', { input: 'through a pipe' }).toString());
  fs.writeFileSync('/tmp/f', 'abc'); // libuv's thread pool
  console.log('file', (await fs.promises.readFile('/tmp/f')).toString());
  const key = await new Promise((yes, no) => crypto.pbkdf2('password', 'salt', 1, 20, 'sha1', (e, k) => e ? no(e) : yes(k)));
  console.log('key', key.toString('hex'));
})().catch(e => { console.error(e); process.exit(1); });
"#;
    let c = limited(&engine().await).command(["/usr/bin/node", "-"]).stdin(program);
    // The key is the first test vector of RFC 6070.
    assert_eq!(
        good(c.output().await.expect("runs")),
        "200 you asked for /\n404 you asked for /none\nworkers 55 500500 5000050000\nchild through a pipe\n\
         file abc\nkey 0c60c80f961f0e71f3a9b524af6012062fe037a6\n"
    );
}

/// The heap's size is given: without a cgroup file system in the container the JVM takes a quarter of the
/// host's memory for what it may use, not of the container's limit.
async fn java() {
    let program = r#"
import com.sun.net.httpserver.HttpServer;
import java.net.*;
import java.net.http.*;
import java.util.concurrent.*;
import java.util.stream.*;

class Main {
    public static void main(String[] args) throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        var parts = IntStream.range(0, 64).mapToObj(i -> pool.submit(() -> (long) i * i)).toList();
        long sum = 0;
        for (var p : parts) sum += p.get();
        pool.shutdown();
        System.out.println("threads " + sum);
        System.out.println("parallel " + LongStream.rangeClosed(1, 1_000_000).parallel().sum());
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.createContext("/", x -> {
            var b = ("got " + x.getRequestURI()).getBytes();
            x.sendResponseHeaders(200, b.length);
            x.getResponseBody().write(b);
            x.close();
        });
        server.start();
        var uri = URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/a");
        var r = HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
        System.out.println("http " + r.statusCode() + " " + r.body());
        server.stop(0);
        var child = new ProcessBuilder("sh", "-c", "echo child; exit 3").start();
        System.out.println("process " + new String(child.getInputStream().readAllBytes()).trim() + " " + child.waitFor());
        // A signal handler of the JVM makes this of a null pointer.
        try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println("caught"); }
        System.out.println("heap " + (Runtime.getRuntime().maxMemory() >> 20));
        System.exit(0);
    }
}
"#;
    let script =
        "cat >/tmp/Main.java; java -Xmx128m /tmp/Main.java; java -version 2>&1 | cut -d. -f1 | head -n 1";
    let c = bash(&engine().await, script).stdin(program);
    assert_eq!(
        good(c.output().await.expect("runs")),
        "threads 85344\nparallel 500000500000\nhttp 200 got /a\nprocess child 3\ncaught\n\
         heap 128\nopenjdk version \"17\n"
    );
}

/// A user with a key, host keys, and an sshd with Debian's configuration, PAM included.
const SSHD: &str = r#"
trap 'tail -n 20 /tmp/sshd.log >&2' ERR
useradd -m -s /bin/bash joe
ssh-keygen -A >/dev/null
mkdir -p /run/sshd
install -d -m 700 -o joe -g joe /home/joe/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/key
install -m 600 -o joe -g joe /root/key.pub /home/joe/.ssh/authorized_keys
/usr/sbin/sshd -D -e -o 'LogLevel DEBUG1' 2>/tmp/sshd.log & server=$!
until_ok listens 22
options='-i /root/key -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR'
login() { ssh $options joe@127.0.0.1 "$@" </dev/null; }
"#;

/// sshd as root puts its unprivileged half into an empty directory with chroot(2), and has no option to
/// leave that out: it needs SYS_CHROOT, which the default profile does not have and Docker's has. It
/// needs nothing else: privilege separation, its own seccomp filter, PAM, setuid, the terminal all run.
async fn sshd_of_root() {
    let e = engine().await;
    let refused = r#"
login true 2>/dev/null && exit 1
grep -m 1 -o 'chroot("/run/sshd"): Operation not permitted' /tmp/sshd.log
"#;
    let out = bash(&e, &format!("{SSHD}{refused}")).output().await.expect("runs");
    assert_eq!(good(out), "chroot(\"/run/sshd\"): Operation not permitted\n");

    let accepted = r#"
login 'id -un; id -gn; pwd; tty || true; grep CapEff /proc/self/status; exit 7' || echo "status $?"
ssh $options -tt joe@127.0.0.1 tty </dev/null | tr -d '\r'
echo 'a file' >/tmp/sent
scp -q $options /tmp/sent joe@127.0.0.1:received
stat -c '%U:%G %s' /home/joe/received
ssh $options nobody@127.0.0.1 true 2>&1 </dev/null | grep -o 'Permission denied' || true
kill $server
wait $server
echo "sshd ends with $?"
"#;
    let c = bash(&e, &format!("{SSHD}{accepted}")).cap_add("SYS_CHROOT");
    assert_eq!(
        good(c.output().await.expect("runs")),
        "joe\njoe\n/home/joe\nnot a tty\nCapEff:\t0000000000000000\nstatus 7\n/dev/pts/0\njoe:joe 7\n\
         Permission denied\nsshd ends with 0\n"
    );
}

/// An sshd of an ordinary user, for that user, does without chroot(2) and without any capability.
async fn sshd_of_a_user() {
    let script = r#"
useradd -m -s /bin/bash joe
cat >/home/joe/script <<'END'
set -euo pipefail
trap 'cat ~/log >&2' ERR
cd
umask 077
mkdir .ssh
ssh-keygen -q -t ed25519 -N '' -f host
ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519
cp .ssh/id_ed25519.pub .ssh/authorized_keys
/usr/sbin/sshd -D -e -f /dev/null -p 2222 -h ~/host -o PidFile=none -o Subsystem='sftp internal-sftp' 2>log & server=$!
for i in $(seq 300); do (exec 3<>/dev/tcp/127.0.0.1/2222) 2>/dev/null && break; sleep 0.1; done
options='-o BatchMode=yes -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR'
ssh $options -p 2222 127.0.0.1 'id -un; cat; exit 7' <<<'through the tunnel' || echo "status $?"
head -c 1000000 /dev/zero >big
scp -q $options -P 2222 big 127.0.0.1:copy
cmp big copy && stat -c '%U %s' copy
kill $server
wait $server
echo "sshd ends with $?"
END
chown joe: /home/joe/script
exec setpriv --reuid=joe --regid=joe --init-groups --reset-env --bounding-set=-all bash /home/joe/script
"#;
    let out = good(bash(&engine().await, script).output().await.expect("runs"));
    assert_eq!(out, "joe\nthrough the tunnel\nstatus 7\njoe 1000000\nsshd ends with 0\n");
}

//! Bad input: a typed error with a message that says what to do, before anything is touched.

use boxship::registry::PullPolicy;
use boxship::{ByteSize, ContainerBuilder, ErrorKind, Mount};
use libtest_mimic::Trial;

use crate::need::Need::UserNamespaces;
use crate::{Root, engine, kind, sh, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test("bad_input_is_named", &[UserNamespaces], table),
        test("bad_images_are_refused", &[UserNamespaces], images),
        test("what_cannot_be_executed", &[UserNamespaces], programs),
    ]
}

async fn table() {
    let root = Root::new("bad-input");
    let e = crate::own_engine(&root.0).await;
    let before = e.containers().all(true).list().await.expect("lists").len();
    type Edit = fn(ContainerBuilder) -> ContainerBuilder;
    let cases: &[(Edit, ErrorKind, &str)] = &[
        (|b| b.command([""]), ErrorKind::InvalidInput, "command"),
        (|b| b.command(Vec::<String>::new()), ErrorKind::InvalidInput, "command"),
        (|b| b.mount(Mount::tmpfs("relative")), ErrorKind::InvalidInput, "mount target"),
        (|b| b.mount(Mount::tmpfs("/a/../b")), ErrorKind::InvalidInput, "mount target"),
        (|b| b.mount(Mount::tmpfs("/")), ErrorKind::InvalidInput, "mount target"),
        (|b| b.mount(Mount::tmpfs("/x")).mount(Mount::tmpfs("/x/")), ErrorKind::InvalidInput, "twice"),
        (|b| b.mount(Mount::bind("relative", "/x")), ErrorKind::InvalidInput, "mount source"),
        (|b| b.mount(Mount::bind("/no/such/path", "/x")), ErrorKind::NotFound, "mount source"),
        (|b| b.mount(Mount::bind("/", "/x")), ErrorKind::InvalidInput, "dangerous"),
        (|b| b.mount(Mount::bind("/proc/sys", "/x")), ErrorKind::InvalidInput, "dangerous"),
        (|b| b.user("nosuchuser"), ErrorKind::InvalidInput, "nosuchuser"),
        (|b| b.user("4294967295"), ErrorKind::InvalidInput, "4294967294"),
        (|b| b.user("0:nosuchgroup"), ErrorKind::InvalidInput, "nosuchgroup"),
        (|b| b.memory_limit(ByteSize::b(1)), ErrorKind::InvalidInput, "memory limit"),
        (|b| b.memory_limit(ByteSize::b(u64::MAX)), ErrorKind::InvalidInput, "memory limit"),
        (|b| b.memory_swap(ByteSize::mib(1)), ErrorKind::InvalidInput, "swap"),
        (|b| b.cpus(0.0), ErrorKind::InvalidInput, "cpus"),
        (|b| b.cpus(f64::NAN), ErrorKind::InvalidInput, "cpus"),
        (|b| b.cpu_weight(0), ErrorKind::InvalidInput, "cpu weight"),
        (|b| b.pids_limit(0), ErrorKind::InvalidInput, "pids"),
        (|b| b.cpuset("a-b"), ErrorKind::InvalidInput, "cpuset"),
        (|b| b.ulimit("nosuch", 1, 1), ErrorKind::InvalidInput, "ulimit"),
        (|b| b.ulimit("nofile", 2, 1), ErrorKind::InvalidInput, "soft"),
        (|b| b.sysctl("kernel.core_pattern", "|/x"), ErrorKind::InvalidInput, "sysctl"),
        (|b| b.sysctl("net/../kernel", "1"), ErrorKind::InvalidInput, "sysctl"),
        (|b| b.cap_add("NOT_A_CAP"), ErrorKind::InvalidInput, "NOT_A_CAP"),
        (|b| b.env("A=B", "c"), ErrorKind::InvalidInput, "env"),
        (|b| b.env("A", "nul\0"), ErrorKind::InvalidInput, "NUL"),
        (|b| b.workdir("relative"), ErrorKind::InvalidInput, "workdir"),
        (|b| b.hostname("bad name"), ErrorKind::InvalidInput, "hostname"),
        (|b| b.name("-bad"), ErrorKind::InvalidInput, "container name"),
        (|b| b.name("a/b"), ErrorKind::InvalidInput, "container name"),
        (|b| b.image("no-such-image:1").pull(PullPolicy::Never), ErrorKind::NotFound, "no-such-image:1"),
        (|b| b.image("Bad Name"), ErrorKind::InvalidInput, "image name"),
        (|b| b.rootfs("/tmp"), ErrorKind::InvalidInput, "rootfs"),
        (|b| b.device("/etc/passwd"), ErrorKind::InvalidInput, "device"),
        (|b| b.device("/dev/no-such-device"), ErrorKind::NotFound, "device"),
        (|b| b.stdin("x").tty(true), ErrorKind::InvalidInput, "stdin"),
    ];
    for (i, (edit, want, word)) in cases.iter().enumerate() {
        let err = edit(sh(&e, "true")).output().await.expect_err(&format!("case {i} ({word})"));
        assert_eq!(err.kind(), *want, "case {i}: {err:?}");
        assert!(err.chain().contains(word), "case {i}: {:?} does not name {word:?}", err.chain());
    }
    assert_eq!(kind(e.container().command(["x"]).output().await), ErrorKind::InvalidInput);
    assert_eq!(e.containers().all(true).list().await.expect("lists").len(), before, "nothing was made");
}

async fn images() {
    let e = engine().await;
    let root = Root::new("bad-images");
    let bad = root.0.join("bad.tar");
    std::fs::write(&bad, vec![1; 2000]).expect("written");
    assert_eq!(kind(e.image().import(&bad).tag("bad:1").await), ErrorKind::InvalidData);
    assert_eq!(kind(e.image().import(root.0.join("none.tar")).tag("bad:1").await), ErrorKind::NotFound);
    assert_eq!(kind(e.image().import(&bad).await), ErrorKind::InvalidInput, "a name is needed");
    assert_eq!(
        kind(e.image().from_host_programs(["/bin/no-such-program"]).tag("bad:1").await),
        ErrorKind::NotFound
    );
    assert_eq!(kind(e.image().from_host_programs(["sh"]).tag("bad:1").await), ErrorKind::InvalidInput);
    assert_eq!(
        kind(e.image().from_host_programs(Vec::<&str>::new()).tag("bad:1").await),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(e.image().from_directory(root.0.join("none")).tag("bad:1").await),
        ErrorKind::InvalidInput
    );
    assert_eq!(kind(e.image().get("bad:1").await), ErrorKind::NotFound);
    assert_eq!(
        std::fs::read_dir(e.root().join("ingest")).expect("readable").count(),
        0,
        "nothing half-made stays"
    );
}

async fn programs() {
    let e = engine().await;
    let with = |program: &str| e.container().image("tools:1").command([program]);
    assert_eq!(kind(with("/bin/none").output().await), ErrorKind::NotFound);
    assert_eq!(kind(with("none").output().await), ErrorKind::NotFound, "searched in PATH");
    assert_eq!(kind(with("/etc/passwd").output().await), ErrorKind::PermissionDenied);
    assert_eq!(kind(with("/etc").output().await), ErrorKind::PermissionDenied);
    assert_eq!(kind(with("/bin/none").run().await), ErrorKind::NotFound);
    assert!(with("true").output().await.expect("found in PATH").status.success());
    let err = with("/bin/none").output().await.expect_err("missing");
    assert!(err.to_string().contains("/bin/none"), "{err}");
    assert!(e.containers().all(true).list().await.expect("lists").iter().all(|c| c.command != ["/bin/none"]));
}

//! Victims with every control there is, each of which leaves a mark when its program runs.

use std::collections::BTreeMap;
use std::path::Path;

use boxship_cgroups::{CpuQuota, Swap};
use boxship_namespaces::{IdMap, Mount, Namespaces, Sandbox};
use boxship_runtime::{
    BindMount, Config, DeviceNode, Limits, MountKind, MountPoint, Network, Profile, Runtime, Streams, Ulimit,
};

use crate::victim::{Result, config, say};

pub fn play(role: &str, root: &Path, out: &Path) -> Result<()> {
    match role {
        "bare" => return bare(out),
        "mapped" => return mapped(out),
        _ => {}
    }
    let runtime = Runtime::open(root)?;
    let mut config = config(&runtime, "echo ran >/out/ran")?;
    say(&format!("id {}", config.id));
    walls(&mut config, out);
    match role {
        "fortress" => limits(&mut config),
        "strict" => config.profile = Profile::Strict,
        "rootless" => {}
        "rootless-host" => config.network = Network::Host,
        "compat" => {
            // What runs below one that the kernel spares must not be spared.
            let _ = std::fs::write("/proc/self/oom_score_adj", "-500");
            config.profile = Profile::Compat;
            config.network = Network::Host;
            config.user = "65534:65534".into();
            config.terminal = Some((24, 80));
        }
        other => panic!("no role {other:?}"),
    }
    // Not all have what it is in.
    if config.network == Network::Host || config.profile == Profile::Strict {
        config.sysctls.clear();
    }
    let mut running = runtime.run(config, Streams::null()?)?;
    ended(running.wait()?.code())
}

fn ended(code: Option<i32>) -> Result<()> {
    match code {
        Some(0) => Ok(()),
        code => Err(format!("the program ended with {code:?}").into()),
    }
}

/// What anybody may ask for.
fn walls(config: &mut Config, out: &Path) {
    let bind = || MountKind::Bind(BindMount { source: out.to_owned(), dangerous: false });
    let tmpfs = MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777 };
    config.workdir = "/tmp".into();
    config.mounts = vec![
        MountPoint { target: "/out".into(), kind: bind(), read_only: false },
        MountPoint { target: "/ro".into(), kind: bind(), read_only: true },
        MountPoint { target: "/tmp".into(), kind: tmpfs, read_only: false },
    ];
    config.read_only_root = Some(true);
    config.ulimits = vec![Ulimit { name: "fsize".into(), soft: 1 << 20, hard: 1 << 20 }];
    config.devices = vec![DeviceNode { source: "/dev/zero".into(), name: "nought".into() }];
    config.sysctls = BTreeMap::from([("net.ipv4.ip_default_ttl".to_owned(), "42".to_owned())]);
}

fn limits(config: &mut Config) {
    config.limits = Limits {
        memory: Some(64 << 20),
        swap: Some(Swap::Total(65 << 20)),
        cpu: Some(CpuQuota { quota_us: 50_000, period_us: 100_000 }),
        cpu_weight: Some(50),
        pids: Some(64),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("0".into()),
        devices: None,
    };
}

/// What no container of the runtime has.
fn bare(out: &Path) -> Result<()> {
    let script = format!("echo ran >{}/ran", out.display());
    let map = || IdMap::range(0x6fff_0000, 65_536);
    let all = Namespaces::CONTAINER | Namespaces::USER | Namespaces::TIME;
    let mut child = Sandbox::command("/bin/sh")
        .args(["-c", &script])
        .namespaces(all)
        .id_maps(map()?, map()?)
        .time_offsets(1000, 2000)
        .mounts([Mount::proc()])
        .hostname("bare")
        .domainname("domain")
        .oom_score_adj(500)
        .umask(0o077)
        .spawn()?;
    ended(child.wait()?.code())
}

/// An ordinary user with ids besides its own.
fn mapped(out: &Path) -> Result<()> {
    let script = format!("echo ran >{}/ran", out.display());
    let map = || IdMap::range(0x6fff_0000, 65_536);
    let mut child = Sandbox::command("/bin/sh")
        .args(["-c", &script])
        .namespaces(Namespaces::CONTAINER | Namespaces::USER)
        .id_maps(map()?, map()?)
        .mounts([Mount::proc()])
        .spawn()?;
    ended(child.wait()?.code())
}

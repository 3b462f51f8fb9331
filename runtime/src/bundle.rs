//! The OCI bundle's `config.json`: what this container is, in the words of the runtime specification,
//! for people and tools that look at it. boxship itself starts from its own record.

use boxship_namespaces::Privilege;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::config::{Config, MountKind, Network};
use crate::error::{Error, Result};
use crate::plan;
use crate::user::Identity;

/// The specification of a container that runs as `who`.
pub(crate) fn spec(
    config: &Config,
    who: &Identity,
    id_base: Option<u32>,
    privilege: Privilege,
) -> Result<Spec> {
    let caps: Vec<String> = plan::capabilities(config).iter().map(|c| c.to_string()).collect();
    let mut namespaces = vec!["pid", "mount", "ipc", "uts", "cgroup"];
    if config.network == Network::None {
        namespaces.push("network");
    }
    if id_base.is_some() || privilege.is_rootless() {
        namespaces.push("user");
    }
    let namespaces: Vec<Value> = namespaces.into_iter().map(|n| json!({"type": n})).collect();
    let maps: Vec<Value> =
        id_base.into_iter().map(|base| json!({"containerID": 0, "hostID": base, "size": 65536})).collect();
    let mut annotations = config.labels.clone();
    annotations.insert("dev.boxship.profile".into(), format!("{:?}", config.profile).to_lowercase());
    if let Some(image) = &config.image {
        annotations.insert("dev.boxship.image".into(), image.clone());
    }
    let limits = &config.limits;
    let value = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": plan::read_only_root(config)},
        "hostname": plan::hostname(config),
        "process": {
            "terminal": config.terminal.is_some(),
            "user": {"uid": who.uid, "gid": who.gid, "additionalGids": who.groups},
            "args": config.command,
            "env": config.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
            "cwd": config.workdir,
            "noNewPrivileges": config.profile.no_new_privileges(),
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": config.ulimits.iter().map(|l| json!({
                "type": format!("RLIMIT_{}", l.name.to_uppercase()), "soft": l.soft, "hard": l.hard,
            })).collect::<Vec<_>>(),
        },
        "mounts": mounts(config),
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces,
            "uidMappings": maps,
            "gidMappings": maps,
            "sysctl": plan::sysctls(config, id_base.map(|_| 0), privilege),
            "maskedPaths": config.profile.masked_paths().collect::<Vec<_>>(),
            "readonlyPaths": config.profile.read_only_paths(),
            "cgroupsPath": format!("/boxship/{}", config.id),
            "resources": {
                "memory": {"limit": limits.memory},
                "cpu": {
                    "quota": limits.cpu.map(|c| c.quota_us), "period": limits.cpu.map(|c| c.period_us),
                    "shares": limits.cpu_weight.map(boxship_cgroups::weight_to_shares),
                    "cpus": limits.cpuset_cpus, "mems": limits.cpuset_mems,
                },
                "pids": {"limit": limits.pids.or(config.profile.pids_limit()).unwrap_or(0)},
            },
        },
    });
    serde_json::from_value(value).map_err(|e| Error::invalid("configuration", e.to_string()))
}

fn mounts(config: &Config) -> Vec<Value> {
    let mut all = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "size=256k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "size=64m"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
    ];
    for m in &config.mounts {
        let access = if m.read_only { "ro" } else { "rw" };
        all.push(match &m.kind {
            MountKind::Bind(b) => json!({"destination": m.target, "type": "bind", "source": b.source,
                "options": ["rbind", "nosuid", "nodev", access]}),
            MountKind::Tmpfs { size, mode } => json!({"destination": m.target, "type": "tmpfs", "source": "tmpfs",
                "options": [access.to_owned(), format!("mode={mode:o}"), format!("size={}", size.unwrap_or(0))]}),
        });
    }
    all
}

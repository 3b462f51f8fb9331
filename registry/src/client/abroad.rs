//! Where a registry sends us: to public addresses only, whatever name they have (THREATS rule R14).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names to public addresses, and refuses those that have another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublicOnly;

/// The error of a name that leads inside.
#[derive(Debug, thiserror::Error)]
#[error("{name} has the address {address}, which is not public")]
pub(super) struct Inside {
    name: String,
    address: IpAddr,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        Box::pin(async move {
            // The port is another's to fill in.
            let all: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(inside) = all.iter().map(SocketAddr::ip).find(|ip| is_inside_ip(*ip)) {
                return Err(Inside { name, address: inside }.into());
            }
            Ok(Box::new(all.into_iter()) as Addrs)
        })
    }
}

/// Whether an error, or what caused it, is that of a name that leads inside.
pub(super) fn led_inside(e: &(dyn std::error::Error + 'static)) -> Option<String> {
    std::iter::successors(Some(e), |e| e.source()).find_map(|e| Some(e.downcast_ref::<Inside>()?.to_string()))
}

/// Whether an address says by itself that it is not public. One with a name is judged when it is resolved.
pub(super) fn is_internal(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match host.parse::<IpAddr>() {
        Ok(ip) => is_inside_ip(ip),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether a host has an address that is not public. One that has none is not inside.
pub(super) async fn is_inside(url: &Url) -> bool {
    if is_internal(url) {
        return true;
    }
    let Some(host) = url.domain() else { return false };
    let port = url.port_or_known_default().unwrap_or(0);
    tokio::net::lookup_host((host, port)).await.is_ok_and(|mut all| all.any(|a| is_inside_ip(a.ip())))
}

/// Loopback, link-local, private and the like: what a registry outside must not lead us to.
fn is_inside_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_inside_v4(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || embedded(ip).is_some_and(is_inside_v4)
        }
    }
}

fn is_inside_v4(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || first == 0
        || first == 100 && second & 0xc0 == 64
}

/// The address of version 4 in one of version 6: mapped, or by the prefix of NAT64 (RFC 6052).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = || {
        let s = ip.segments();
        let [a, b, c, d] = [s[6] >> 8, s[6] & 0xff, s[7] >> 8, s[7] & 0xff].map(|n| n.to_be_bytes()[1]);
        (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| Ipv4Addr::new(a, b, c, d))
    };
    ip.to_ipv4_mapped().or_else(nat64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        let url = |host: &str| Url::parse(&format!("https://{host}/x")).expect("an address");
        for host in [
            "127.0.0.1",
            "0x7f.1",
            "10.1.2.3",
            "169.254.169.254",
            "100.64.0.1",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[fd00::1]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "localhost",
            "localhost.",
            "x.localhost",
        ] {
            assert!(is_internal(&url(host)), "{host}");
        }
        for host in ["1.1.1.1", "100.128.0.1", "[2606:4700::1]", "[64:ff9b::101:101]", "example.com"] {
            assert!(!is_internal(&url(host)), "{host}");
        }
    }

    #[test]
    fn a_name_of_this_machine_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let name: Name = "localhost".parse().expect("a name");
        let error = runtime.block_on(PublicOnly.resolve(name)).err().expect("refused");
        assert!(led_inside(&*error).is_some_and(|e| e.contains("localhost")), "{error}");
    }
}

//! A docker-registry, where the one who uses it can reach it, and a slow line to it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes per second and connection of the slow line.
const RATE: u64 = 100 << 20;
/// What an answer takes there at least.
const DELAY: Duration = Duration::from_millis(20);

/// Serves `storage` at [`host`](Hub::host); ends with this.
pub struct Hub {
    pub host: String,
    processes: Vec<Child>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// In the network namespace of this process, when it has one of its own.
fn inside(netns: Option<u32>, program: &Path) -> Command {
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig", "KILL"]);
    if let Some(pid) = netns {
        c.arg("nsenter").arg(format!("--net=/proc/{pid}/ns/net"));
    }
    c.arg(program).stdin(Stdio::null());
    c
}

impl Hub {
    pub fn start(storage: &Path, netns: Option<u32>, slow: bool) -> Hub {
        let port = free_port();
        std::fs::create_dir_all(storage).expect("made");
        let config = storage.with_extension(format!("{port}.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: \
             {{rootdirectory: {}}}\nhttp: {{addr: \"127.0.0.1:{port}\", secret: x}}\n",
            storage.display()
        );
        std::fs::write(&config, text).expect("written");
        if netns.is_some() {
            let up = inside(netns, Path::new("ip")).args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("iproute2").success());
        }
        let mut registry = inside(netns, Path::new("docker-registry"));
        registry.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let mut hub =
            Hub { host: format!("127.0.0.1:{port}"), processes: vec![registry.spawn().expect("it starts")] };
        if slow {
            let line = free_port();
            let me = std::env::current_exe().expect("this program");
            let mut c = inside(netns, &me);
            c.args(["--line", &line.to_string(), &port.to_string()]);
            hub.processes.push(c.spawn().expect("it starts"));
            hub.host = format!("127.0.0.1:{line}");
        }
        // Who can be asked from here is asked, for the others a moment has to do.
        let url = format!("http://{}/v2/", hub.host);
        let up = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            let mut c = inside(netns, Path::new("curl"));
            c.args(["-sf", "-o", "/dev/null", &url]).status().is_ok_and(|s| s.success())
        });
        assert!(up, "docker-registry does not answer at {url}");
        let _ = std::fs::remove_file(config);
        hub
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What the process of the slow line does.
pub fn line(from: u16, to: u16) {
    let listener = TcpListener::bind(("127.0.0.1", from)).expect("the port");
    for client in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
        let (c, s) = (client.try_clone().expect("one more"), server.try_clone().expect("one more"));
        std::thread::spawn(move || carry(c, s, Duration::ZERO));
        std::thread::spawn(move || carry(server, client, DELAY));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    let (mut free, mut last) = (Instant::now(), Instant::now());
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) if n > 0 => n,
            _ => break,
        };
        // The first bytes after a silence are an answer.
        if last.elapsed() > Duration::from_millis(5) {
            std::thread::sleep(delay);
        }
        free = free.max(Instant::now()) + Duration::from_nanos(n as u64 * 1_000_000_000 / RATE);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        std::thread::sleep(free.saturating_duration_since(Instant::now()));
        last = Instant::now();
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

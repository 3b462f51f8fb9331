//! A small token service: everybody may pull, `me` with the password `secret` may push.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

pub struct TokenService {
    pub host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenService {
    /// Signs with this key, whose certificate the registry trusts. Its thread ends with the process.
    pub fn start(cert: &Path, key: &Path) -> TokenService {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("bound").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let pem = std::fs::read_to_string(cert).expect("read");
        let der: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let (key, told) = (key.to_owned(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &der, &key, &told);
            }
        });
        TokenService { host, asked }
    }

    /// The scopes that were asked for.
    pub fn scopes(&self) -> Vec<String> {
        self.asked.lock().expect("whole").clone()
    }
}

fn serve(mut stream: TcpStream, der: &str, key: &Path, told: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("one more")).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.take_while(|l| !l.is_empty()).collect();
    let known = format!("basic {}", STANDARD.encode("me:secret"));
    let known = headers.iter().any(|h| {
        let (name, value) = h.split_once(": ").unwrap_or_default();
        name.eq_ignore_ascii_case("authorization")
            && value.len() == known.len()
            && value[..6].eq_ignore_ascii_case("basic ")
            && value[6..] == known[6..]
    });
    let query = request.split([' ', '?']).nth(2).unwrap_or_default().replace("%3A", ":").replace("%2C", ",");
    let scope = query.replace("%2F", "/");
    let scope = scope.split('&').find_map(|p| p.strip_prefix("scope=")).unwrap_or_default().to_owned();
    told.lock().expect("whole").push(scope.clone());
    let (repository, actions) =
        scope.strip_prefix("repository:").and_then(|s| s.rsplit_once(':')).unwrap_or_default();
    let actions: Vec<&str> = actions.split(',').filter(|a| *a == "pull" || known).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({
        "iss": "tests", "sub": "", "aud": "hub", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
        "access": [{"type": "repository", "name": repository, "actions": actions}],
    });
    let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let encoded = |v: &serde_json::Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let signed = format!("{}.{}", encoded(&header), encoded(&claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(&signed, key)));
    let body = serde_json::json!({"token": token, "expires_in": 300}).to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

fn sign(text: &str, key: &Path) -> Vec<u8> {
    let mut c = Command::new("openssl");
    c.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = c.spawn().expect("openssl");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("read");
    child.wait_with_output().expect("it ends").stdout
}

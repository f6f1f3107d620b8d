//! The program as users run it: a process of its own, on ports of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::unix::fs::symlink,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

/// A running `ratekeeper serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it answers gRPC.
    pub(crate) grpc: SocketAddr,
    /// Where it answers HTTP.
    pub(crate) http: SocketAddr,
    /// What it said until it listened.
    said: Vec<String>,
    /// What it has said on standard error, where that is piped.
    log: Arc<Mutex<String>>,
    /// Where its rules are, if that is nobody else's.
    rules: Option<TempDir>,
}

impl Server {
    /// Starts it with these rules and flags; ready to be asked on return.
    pub(crate) fn start(rules: &str, flags: &[&str]) -> Self {
        Self::start_with(rules, flags, |_| {})
    }

    /// The same, with more said of the process.
    pub(crate) fn start_with(rules: &str, flags: &[&str], more: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("rules.yaml");
        fs::write(&file, rules).expect("a writable folder");
        let mut command = serve();
        command.args(["--log-level", "error", "--rules"]).arg(&file);
        command.args(flags);
        more(&mut command);
        Self::with_rules(&mut command, folder)
    }

    /// Starts it under the reference's name, with these rules and variables.
    pub(crate) fn compat(rules: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("ratelimit/config");
        fs::create_dir_all(&config).expect("a writable folder");
        fs::write(config.join("rules.yaml"), rules).expect("a writable folder");
        let name = folder.path().join("bin-ratelimit");
        fs::create_dir(&name).expect("a writable folder");
        let name = name.join("ratelimit");
        symlink(env!("CARGO_BIN_EXE_ratekeeper"), &name).expect("a link");
        let mut program = Command::new(name);
        program
            .env_clear()
            .env("RUNTIME_ROOT", folder.path())
            .env("RUNTIME_SUBDIRECTORY", "ratelimit")
            .envs([("GRPC_HOST", "127.0.0.1"), ("GRPC_PORT", "0")])
            .envs([("HOST", "127.0.0.1"), ("PORT", "0")])
            .envs([("DEBUG_PORT", "0"), ("BACKEND_TYPE", "memory")])
            .envs([("LOG_LEVEL", "error"), ("USE_STATSD", "false")])
            .envs(variables.iter().copied());
        Self::with_rules(&mut program, folder)
    }

    fn with_rules(command: &mut Command, rules: TempDir) -> Self {
        let mut server = Self::run(command);
        server.rules = Some(rules);
        server
    }

    /// Starts it as `command` says (see [`serve`]).
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(errors) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(errors).lines().map_while(Result::ok) {
                    *log.lock().expect("nobody panics") += &(line + "\n");
                }
            });
        }
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = vec![];
        let grpc = address(&mut lines, "gRPC listens on ", &mut said);
        let http = address(&mut lines, "HTTP listens on ", &mut said);
        // Read on, so that the program never waits for us.
        thread::spawn(move || lines.read_to_end(&mut vec![]));
        Self {
            child,
            grpc,
            http,
            said,
            log,
            rules: None,
        }
    }

    /// Where another listener is: what it said of `who`.
    pub(crate) fn listens(&self, who: &str) -> SocketAddr {
        let prefix = format!("{who} listens on ");
        let mut found = self.said.iter().filter_map(|it| it.strip_prefix(&prefix));
        let address = found.next().unwrap_or_else(|| panic!("{:?}", self.said));
        address.parse().expect("an address")
    }

    /// What it has said on standard error until now, where that is piped.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("nobody panics").clone()
    }

    /// Sends it a signal: `TERM`, `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill works");
    }

    /// Bytes of memory that it uses now.
    pub(crate) fn memory(&self) -> u64 {
        memory(self.child.id()).expect("the process lives")
    }

    /// Status and body of a request over HTTP.
    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        http(self.http, method, path, body)
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end; `None` when it has not within `patience`.
    pub(crate) fn end(mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal("TERM");
        self.ended(patience)
    }

    /// Waits for its end; `None` when that has not come within `patience`.
    pub(crate) fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Some(status);
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        None
    }
}

/// `ratekeeper serve` on ports of its own, in an empty environment.
pub(crate) fn serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratekeeper"));
    command
        .args(["serve", "--grpc-addr", "127.0.0.1:0"])
        .args(["--http-addr", "127.0.0.1:0"])
        .env_clear();
    command
}

impl Drop for Server {
    fn drop(&mut self) {
        // It fails when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a request over HTTP/1.0.
pub(crate) fn http(
    address: impl ToSocketAddrs,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Bytes of memory that a process uses now; `None` when it is no more.
pub(crate) fn memory(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes * 1_024)
}

fn address(lines: &mut BufReader<ChildStdout>, prefix: &str, said: &mut Vec<String>) -> SocketAddr {
    for line in lines.lines() {
        let line = line.expect("text");
        if let Some(address) = line.strip_prefix(prefix) {
            return address.parse().expect("an address");
        }
        said.push(line);
    }
    panic!("the program ended early");
}

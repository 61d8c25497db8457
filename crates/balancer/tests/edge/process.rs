//! The balancer's process: started with a configuration, read from, stopped.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::poll_until;

use crate::world::{SOON, World};

pub struct Balancer {
    child: Child,
    pub front: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Balancer {
    pub async fn start(world: &World, config: &str) -> Self {
        let identity = world.identity("balancer-1");
        let file = world.path("balancer.toml");
        std::fs::write(&file, format!("identity.directory = {identity:?}\n{config}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_rampart-balancer"))
            .args(["serve", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap().push(value);
            }
        });
        let mut balancer = Self { child, front: "127.0.0.1:0".parse().unwrap(), log };
        poll_until("the balancer listens", SOON, async || balancer.front_address().is_some() || balancer.has_ended())
            .await;
        let front = balancer.front_address();
        balancer.front = front.unwrap_or_else(|| panic!("the balancer did not start: {:#?}", balancer.log()));
        balancer
    }

    fn front_address(&self) -> Option<SocketAddr> {
        let log = self.log.lock().unwrap();
        let line = log.iter().find(|line| field(line, "listener").as_deref() == Some("front"))?;
        field(line, "address")?.parse().ok()
    }

    /// Every line so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The descriptor that listens to clients, and the highest of all others.
    pub fn descriptors(&self) -> (u32, u32) {
        let process = Path::new("/proc").join(self.child.id().to_string());
        let sockets = std::fs::read_to_string(process.join("net/tcp")).unwrap();
        let listens = format!(":{:04X} 00000000:0000 0A ", self.front.port());
        let inode = sockets.lines().find(|line| line.contains(&listens)).unwrap().split_whitespace().nth(9).unwrap();
        let open: Vec<(u32, PathBuf)> = std::fs::read_dir(process.join("fd"))
            .unwrap()
            .map_while(Result::ok)
            .filter_map(|entry| {
                Some((entry.file_name().to_str()?.parse().ok()?, std::fs::read_link(entry.path()).ok()?))
            })
            .collect();
        let (front, others): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(_, file)| file.to_str() == Some(&format!("socket:[{inode}]")));
        (front[0].0, others.into_iter().map(|(number, _)| number).max().unwrap())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the process.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        poll_until("the balancer has ended", limit, async || self.has_ended()).await;
        self.child.wait().unwrap()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for line in self.log() {
                eprintln!("balancer: {line}");
            }
        }
    }
}

/// A field of a log line, wherever the format puts it.
pub fn field(line: &Value, name: &str) -> Option<String> {
    let value = line.get(name).or_else(|| line.get("fields")?.get(name))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

//! A table that is locked for a while.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use pg_sandbox::{Cluster, SUPERUSER};

const TAKEN: &str = "a test's table can be locked";

/// A table is locked while this lives.
pub struct TableLock {
    psql: Child,
    // Its end would be the end of the session.
    _open: ChildStdin,
}

// === impl TableLock ===

impl TableLock {
    pub(super) fn take(cluster: &Cluster, port: u16, database: &str, table: &str) -> Self {
        let mut psql = Command::new(cluster.binaries().program("psql"))
            .args(["-X", "-q", "-A", "-t", "-U", SUPERUSER, "-d", database, "-p", &port.to_string(), "-h"])
            .arg(cluster.socket_directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(TAKEN);
        let (mut stdin, stdout) = (psql.stdin.take().expect(TAKEN), psql.stdout.take().expect(TAKEN));
        let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n");
        stdin.write_all(sql.as_bytes()).expect(TAKEN);
        let mut printed = String::new();
        BufReader::new(stdout).read_line(&mut printed).expect(TAKEN);
        assert_eq!(printed.trim(), "locked");
        Self { psql, _open: stdin }
    }
}

impl Drop for TableLock {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.psql.kill();
        let _reaped = self.psql.wait();
    }
}

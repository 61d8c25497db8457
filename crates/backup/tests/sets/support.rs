//! A database and models to back up, and the keys.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use backup::{
    keys::{DecryptionKey, Recipient, SigningKey},
    manifest::Link,
    progress::Progress,
    run::{BuiltSet, Verdict},
    set_builder::{BuildError, SetBuilder},
    set_name::SetName,
    staging::BackupRoot,
    verify::Verifier,
};
use database::DatabaseConfig;
use rustix::process::{Pid, Signal, kill_process};
use secrets::SecretFile;
use testkit::{Postgres, poll_until};
use time::OffsetDateTime;
use uuid::Uuid;

/// Must be found unencrypted in no file.
pub(crate) const CANARY: &str = "canary-0b5e6c31-may-not-leave";

/// A database with a canary row, a models folder with canary bytes, and keys.
pub(crate) struct TestSite {
    pub(crate) postgres: Postgres,
    pub(crate) database: DatabaseConfig,
    pub(crate) directory: tempfile::TempDir,
}

impl TestSite {
    pub(crate) async fn new() -> Self {
        identity::install_crypto_providers().unwrap();
        let postgres = Postgres::start().await;
        let database = postgres.database("backup").await;
        let sql = format!(
            "GRANT pg_read_all_data TO {};
             CREATE SCHEMA gateway;
             CREATE TABLE gateway.users (id int PRIMARY KEY, name text NOT NULL);
             INSERT INTO gateway.users SELECT n, '{CANARY}' FROM generate_series(1, 5000) AS n;
             CREATE TABLE gateway.empty (id int);
             CREATE TABLE \"gateway\".\"Odd \"\"name\" (id int);
             INSERT INTO \"gateway\".\"Odd \"\"name\" VALUES (1);",
            database.user
        );
        postgres.sql(&database.name, &sql).await;
        let directory = tempfile::tempdir().unwrap();
        // PostgreSQL's user must get to the scratch directory.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let this = Self { postgres, database, directory };
        let model = this.models().join("forest/1");
        fs::create_dir_all(&model).unwrap();
        fs::write(model.join("model.onnx"), CANARY.repeat(1000)).unwrap();
        fs::write(this.models().join("forest/model.toml"), "name = \"forest\"").unwrap();
        fs::create_dir(this.path("scratch")).unwrap();
        fs::set_permissions(this.path("scratch"), fs::Permissions::from_mode(0o711)).unwrap();
        this.write_keys();
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.path("models")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("backups")
    }

    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::read(&SecretFile::new(self.path("signing-key.pem"))).unwrap()
    }

    pub(crate) fn decryption_key(&self) -> DecryptionKey {
        DecryptionKey::read(&SecretFile::new(self.path("age-identity"))).unwrap()
    }

    pub(crate) fn builder(&self) -> SetBuilder {
        SetBuilder {
            root: Arc::new(BackupRoot::lock(&self.root()).unwrap()),
            models: self.models(),
            databases: vec![self.database.clone()],
            recipient: Recipient::read(&self.path("age-recipient")).unwrap(),
            signing_key: Arc::new(self.signing_key()),
            free_bytes_min: 1,
        }
    }

    pub(crate) fn verifier(&self) -> Verifier {
        Verifier {
            root: self.root(),
            verifying_key: self.signing_key().verifying_key(),
            decryption_key: self.decryption_key(),
            scratch: self.path("scratch"),
        }
    }

    pub(crate) async fn verify(&self, name: &SetName) -> Verdict {
        self.verifier().verify(name, None, &Progress::default()).await.unwrap()
    }

    /// A key that decrypts nothing here.
    pub(crate) fn other_decryption_key(&self) -> DecryptionKey {
        let identity = age::x25519::Identity::generate();
        let text = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
        write_secret(&self.path("other-identity"), &text);
        DecryptionKey::read(&SecretFile::new(self.path("other-identity"))).unwrap()
    }

    /// What is in the root beside complete sets: nothing, if all is well.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.') && name != ".lock").collect()
    }

    /// The command that verifies a set without a worker, with all its arguments.
    pub(crate) fn verify_command(&self, set: &str) -> Command {
        let public = Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(self.path("signing-key.pem"))
            .arg("-out")
            .arg(self.path("public.pem"))
            .status();
        assert!(public.unwrap().success());
        let mut command = Command::new(env!("CARGO_BIN_EXE_rampart-backup"));
        command.arg("verify").arg("--root").arg(self.root()).args(["--set", set]);
        command.arg("--identity").arg(self.path("age-identity"));
        command.arg("--public-key").arg(self.path("public.pem"));
        command.arg("--scratch").arg(self.path("scratch"));
        command
    }

    /// The sections of a worker that has its sets in this root, with a schedule.
    pub(crate) fn configuration(&self, root: &Path, schedule: &str) -> String {
        let database = &self.database;
        format!(
            "[database]\nhost = {:?}\nport = {}\nname = {:?}\nuser = {:?}\npassword_file = {:?}\nca_file = {:?}\n\
             certificate_file = {:?}\nkey_file = {:?}\n\
             [backup]\ndirectory = {:?}\nmodels = {:?}\nscratch = {:?}\nage_recipient_file = {:?}\n\
             age_identity_file = {:?}\nsigning_key_file = {:?}\nfree_bytes_min = 1\n[schedule]\n{schedule}",
            database.host,
            database.port,
            database.name,
            database.user,
            database.password_file.path(),
            database.ca_file,
            database.certificate_file,
            database.key_file,
            root,
            self.models(),
            self.path("scratch"),
            self.path("age-recipient"),
            self.path("age-identity"),
            self.path("signing-key.pem"),
        )
    }

    /// Runs SQL on the database, which holds the runs, too.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        self.postgres.sql(&self.database.name, sql).await
    }

    /// Waits for the scratch server of a verification, and freezes it, so that the verification runs until it is ended.
    /// Answers its process and the directory of its sockets.
    pub(crate) async fn freeze_scratch_server(&self) -> (Pid, PathBuf) {
        let mut found = None;
        poll_until("the scratch server starts", Duration::from_secs(30), async || {
            let mut clusters = fs::read_dir(self.path("scratch")).unwrap();
            let pid_file = clusters.next().map(|entry| entry.unwrap().path().join("cluster/data/postmaster.pid"));
            let lines = pid_file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
            let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
            found = lines.get(4).map(|sockets| (lines[0].trim().parse::<i32>().unwrap(), PathBuf::from(sockets)));
            // While initdb creates the cluster, the number is that of its own server, and negative. The line of the sockets is
            // empty until the server listens.
            found.as_ref().is_some_and(|(server, sockets)| *server > 0 && !sockets.as_os_str().is_empty())
        })
        .await;
        let (server, sockets) = found.unwrap();
        let server = Pid::from_raw(server).unwrap();
        kill_process(server, Signal::STOP).unwrap();
        (server, sockets)
    }

    /// What is left in the scratch directory: nothing, if all is well.
    pub(crate) fn scratch_is_empty(&self) -> bool {
        fs::read_dir(self.path("scratch")).unwrap().next().is_none()
    }

    fn write_keys(&self) {
        let secret = |name: &str, text: &str| write_secret(&self.path(name), text);
        secret("signing-key.pem", &authz::generate_pkcs8_pem().unwrap());
        let identity = age::x25519::Identity::generate();
        secret("age-identity", age::secrecy::ExposeSecret::expose_secret(&identity.to_string()));
        secret("age-recipient", &identity.to_public().to_string());
    }
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Whether there is no such process any more.
pub(crate) fn is_gone(process: Pid) -> bool {
    !Path::new(&format!("/proc/{}", process.as_raw_nonzero())).exists()
}

/// Builds a set as if it were this time.
pub(crate) async fn build(
    builder: &SetBuilder,
    recorded_last: Option<(Link, OffsetDateTime)>,
    now: OffsetDateTime,
) -> Result<BuiltSet, BuildError> {
    builder.build(Uuid::new_v4(), recorded_last, now, &Progress::default()).await
}

/// The reasons for INVALID; VALID fails the test.
pub(crate) fn reasons(verdict: Verdict) -> String {
    match verdict {
        Verdict::Invalid(reasons) => reasons.join("\n"),
        Verdict::Valid => panic!("VALID, and must not be"),
    }
}

/// The files of a set, sorted.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

//! Proves the command line of operators against a running platform: login, status, users, models.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, process::Output};

use end_to_end::platform::Platform;

const PASSWORD: &str = "a password of twenty-seven";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_log_in_and_manage_users_and_models() {
    let platform = Platform::start(&[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let admin = &platform.state().tokens["admin"];
    let run = |arguments: &[&str], token: &Path| platform.command_line(arguments, token).unwrap();
    let password = folder.path().join("password");
    fs::write(&password, PASSWORD).unwrap();
    let password = password.to_str().unwrap();

    let created = ["users", "create", "ann", "--role", "engineer", "--password-file", password];
    assert!(text(&run(&created, admin)).contains("engineer"));
    assert!(refusal(&run(&created, admin)).contains("409"));
    assert!(text(&run(&["users", "list"], admin)).lines().any(|line| line.starts_with("ann ")));

    let token = folder.path().join("token");
    let login = ["login", "--user", "ann", "--password-file", password];
    assert!(text(&run(&login, &token)).contains("ann is logged in"));
    let status = text(&run(&["status"], &token));
    assert_eq!(status.lines().filter(|line| line.starts_with("serving ") && line.contains(" healthy ")).count(), 3);
    assert!(refusal(&run(&["users", "list"], &token)).contains("403"));

    let models = text(&run(&["models", "list"], &token));
    assert!(models.lines().any(|line| line.starts_with("digits-mlp") && line.contains("READY")), "{models}");
    assert_eq!(text(&run(&["models", "unload", "digits-mlp"], &token)).trim(), "digits-mlp: unloaded");
    assert!(refusal(&run(&["models", "load", "no-such-model"], &token)).contains("404"));
    assert_eq!(text(&run(&["models", "load", "digits-mlp"], &token)).trim(), "digits-mlp: loaded");

    text(&run(&["users", "revoke", "ann"], admin));
    text(&run(&["users", "delete", "ann"], admin));
    assert!(refusal(&run(&login, &token)).contains("401"));
    platform.stop(&[]).unwrap();
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

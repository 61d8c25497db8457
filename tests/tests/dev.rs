//! Proves that `rampart dev` leaves nothing behind, keeps what it was told to keep, and hides what it must.

use std::{collections::BTreeSet, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use end_to_end::platform::{Platform, repository};
use http::Method;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_found_nowhere_and_nothing_is_left_behind() {
    let platform = Platform::start(&[]).unwrap();
    let token = platform.token("admin").unwrap();
    let (status, users) = platform.call(Method::GET, "/api/admin/users", Some(&token), None).await.unwrap();
    assert!(
        status.is_success() && users["users"].as_array().is_some_and(|users| !users.is_empty()),
        "{status} {users}"
    );

    let data = platform.state().data.clone();
    let secrets = secrets_in(&[&data.join("secrets"), &data.join("tokens")]);
    assert!(secrets.len() >= 15, "the secrets are where this test looks: {}", secrets.len());
    let mut places = Vec::new();
    places.extend(files_in(&data.join("logs")));
    places.extend(files_in(&data.join("config")));
    places.extend(tracked_files());
    places.extend(process_files());
    for place in places {
        let content = fs::read(&place).unwrap_or_default();
        for (owner, secret) in &secrets {
            assert!(!contains(&content, secret), "{} holds the secret {owner}", place.display());
        }
    }

    let before = processes_naming(&data);
    assert!(before >= 9, "the processes are where this test looks: {before}");
    assert_eq!(platform.stop().unwrap(), Some(0));
    assert_eq!(processes_naming(&data), 0, "a process outlived Ctrl-C");
    assert!(!data.exists(), "the test's directory is removed with the platform");
}

/// Every value in the folders, as it is and in base64.
fn secrets_in(folders: &[&Path]) -> Vec<(String, Vec<u8>)> {
    let mut secrets = Vec::new();
    for file in folders.iter().flat_map(|folder| files_in(folder)) {
        let owner = file.display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        let value = text.trim().trim_start_matches("Authorization: Bearer ").to_owned();
        // Of a PEM file any line of the key is the secret, not the frame around it.
        let lines = value.lines().filter(|line| !line.starts_with("-----"));
        let value = lines.max_by_key(|line| line.len()).unwrap_or_default().to_owned();
        assert!(value.len() >= 16, "{owner} is too short to be looked for");
        secrets.push((format!("{owner} in base64"), STANDARD.encode(&value).trim_end_matches('=').into()));
        secrets.push((owner, value.into_bytes()));
    }
    secrets
}

fn files_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { files.extend(files_in(&entry.path())) } else { files.push(entry.path()) }
    }
    files
}

fn tracked_files() -> Vec<std::path::PathBuf> {
    let output = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(repository()).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    names.split_terminator('\0').map(|name| repository().join(name)).collect()
}

fn process_files() -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    processes.flat_map(|entry| [entry.path().join("cmdline"), entry.path().join("environ")]).collect()
}

fn processes_naming(data: &Path) -> usize {
    let needle = data.display().to_string();
    let own = std::process::id().to_string();
    let named: BTreeSet<_> = process_files()
        .into_iter()
        .filter(|path| path.ends_with("cmdline") && !path.starts_with(format!("/proc/{own}")))
        .filter(|path| contains(&fs::read(path).unwrap_or_default(), needle.as_bytes()))
        .collect();
    named.len()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

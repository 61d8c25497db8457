//! Proves that a cluster can be made, asked, found again with its data, and that nothing is left running.

use pg_sandbox::Cluster;

#[tokio::test]
async fn data_outlives_the_server_and_the_server_ends_with_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let home = directory.path().join("postgres");

    let running = Cluster::open(&home, None, &[("fsync", "off")]).await.unwrap().start().await.unwrap();
    running.sql("postgres", "CREATE TABLE t AS SELECT 42 AS n").await.unwrap();
    let pid = running.pid();
    drop(running);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the server outlived its owner");

    let again = Cluster::open(&home, None, &[]).await.unwrap().start().await.unwrap();
    assert_eq!(again.sql("postgres", "SELECT n FROM t").await.unwrap(), "42");
    assert!(again.sql("postgres", "SELECT nonsense").await.unwrap_err().to_string().contains("nonsense"));
}

/// Proves that root reads which directory keeps PostgreSQL's user out, and that other accounts are not kept out by it.
#[tokio::test]
async fn a_closed_directory_on_the_way_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let opened = Cluster::open(&directory.path().join("postgres"), None, &[("fsync", "off")]).await;
    match opened {
        Ok(cluster) => assert!(cluster.account().ids().is_none(), "root's temporary directory is closed to others"),
        Err(error) => assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}"),
    }
}

//! Proves that a cluster can be made, asked, found again with its data, and that nothing is left running.

use cluster::Cluster;

#[tokio::test]
async fn data_outlives_the_server_and_the_server_does_not_outlive_us() {
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

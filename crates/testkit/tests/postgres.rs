//! Proves that the test database is reached as production's is: TLS, SCRAM, a role that owns its schema and no more.

use database::connect;
use testkit::Postgres;

#[tokio::test]
async fn a_role_reaches_its_own_schema_over_tls() {
    identity::install_crypto_providers().unwrap();
    let postgres = Postgres::start().await;
    let config = postgres.database("gateway").await;
    let database = connect(&config).unwrap();
    let encrypted: String = sqlx::query_scalar("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .fetch_one(&database.pool())
        .await
        .unwrap();
    assert_eq!(encrypted, "TLSv1.3");
    sqlx::query("CREATE TABLE gateway.t (n int)").execute(&database.pool()).await.unwrap();
    assert!(sqlx::query("CREATE TABLE public.t (n int)").execute(&database.pool()).await.is_err());
}

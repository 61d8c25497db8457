//! Proves that replicas and the gateway may die, freeze and come back while nobody who predicts notices.

use std::time::Duration;

use end_to_end::{load::open_loop, platform::Platform, request::Protocol};
use rustix::process::Signal;
use tokio::time::Instant;

const RATE: u32 = 200;
const LOAD: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_prediction_fails_or_is_late_while_replicas_die_and_freeze() {
    let platform = Platform::start(&[]).unwrap();
    let server = platform.front(Protocol::Http1).unwrap();
    let prediction = platform.prediction(&platform.token("analyst").unwrap()).unwrap();
    let load = tokio::spawn(async move { open_loop(&server, &prediction, RATE, LOAD).await });

    pause(Duration::from_secs(3)).await;
    platform.signal("serving-1", Signal::KILL).unwrap();
    assert_seen(&platform, "fall after a kill", Duration::from_secs(1), |healthy| healthy < 3).await;
    assert_seen(&platform, "return after a kill", Duration::from_secs(15), |healthy| healthy == 3).await;

    platform.signal("serving-2", Signal::STOP).unwrap();
    assert_seen(&platform, "fall after a freeze", Duration::from_secs(1), |healthy| healthy < 3).await;
    pause(Duration::from_secs(4)).await;
    platform.signal("serving-2", Signal::CONT).unwrap();
    assert_seen(&platform, "return after a freeze", Duration::from_secs(5), |healthy| healthy == 3).await;

    platform.signal("gateway-1", Signal::KILL).unwrap();

    let report = load.await.unwrap().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert_eq!(report.good, u64::from(RATE) * LOAD.as_secs(), "every call that was due was made");
    assert!(report.max() <= LATEST, "the latest answer took {:?}", report.max());
    assert_eq!(platform.stop().unwrap(), Some(0));
}

/// Time in which the load goes on undisturbed; no state is waited for.
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

async fn assert_seen(platform: &Platform, what: &str, limit: Duration, is_so: impl Fn(u64) -> bool) {
    let deadline = Instant::now() + limit;
    loop {
        let healthy = platform.healthy_backends().await.unwrap();
        if is_so(healthy) {
            return;
        }
        assert!(Instant::now() < deadline, "healthy_backends did not {what} within {limit:?}: {healthy}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! Proves that `crates/topology`, the map of the platform, and every file that repeats something of it say the same.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::indexing_slicing, reason = "what YAML or TOML does not say is null, and compared as such")]

mod checkout;
mod compose;
mod configs;
mod generated;
mod guide;
mod images;
mod lists;
mod nginx;
mod policies;
mod proxies;

use std::{fs, sync::Once};

use checkout::Checkout;
use end_to_end::checkout::repository;
use topology::{Map, PLATFORM};

/// Every file of the checkout that does not say what the map says.
fn stale(map: &Map, checkout: &mut Checkout) {
    generated::compare(map, checkout);
    compose::compare(map, checkout);
    images::compare(map, checkout);
    configs::compare(map, checkout);
    proxies::compare(map, checkout);
    nginx::compare(map, checkout);
    policies::compare(map, checkout);
    lists::compare(map, checkout);
}

/// `RAMPART_UPDATE=1` writes the generated files, once and before any test looks at them.
fn update_if_asked() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("RAMPART_UPDATE").is_none() {
            return;
        }
        for (file, text) in generated::files(&PLATFORM) {
            let path = repository().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    });
}

#[test]
fn every_file_says_what_the_map_says() {
    update_if_asked();
    let mut checkout = Checkout::at(repository());
    stale(&PLATFORM, &mut checkout);
    assert!(checkout.faults.is_empty(), "{}", checkout.faults.join("\n"));
}

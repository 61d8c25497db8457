//! The methods of a gRPC service, by the contract and not by the code that declares them.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::RoutesError;

/// The health service is gRPC's own and therefore not in the descriptors of `proto`.
const HEALTH: (&str, [&str; 2]) = ("grpc.health.v1.Health", ["Check", "Watch"]);

/// Whether exactly the methods of the service are declared.
pub(crate) fn check<'a>(service: &str, declared: impl Iterator<Item = &'a str>) -> Result<(), RoutesError> {
    let contract = methods(service).ok_or_else(|| RoutesError::NoService(service.to_owned()))?;
    let declared: BTreeSet<String> = declared.map(str::to_owned).collect();
    if contract == declared {
        return Ok(());
    }
    Err(RoutesError::Methods {
        service: service.to_owned(),
        missing: contract.difference(&declared).cloned().collect(),
        surplus: declared.difference(&contract).cloned().collect(),
    })
}

fn methods(service: &str) -> Option<BTreeSet<String>> {
    if service == HEALTH.0 {
        return Some(HEALTH.1.into_iter().map(str::to_owned).collect());
    }
    let files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).ok()?.file;
    files.iter().find_map(|file| {
        let (package, name) = service.rsplit_once('.')?;
        let found = file.service.iter().find(|found| file.package() == package && found.name() == name)?;
        Some(found.method.iter().map(|method| method.name().to_owned()).collect())
    })
}

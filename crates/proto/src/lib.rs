#![doc = include_str!("../README.md")]

pub mod codec;

/// Who a caller is, as the gateway says it.
pub mod auth {
    /// Version 1.
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!("generated/rampart.auth.v1.rs");
    }
}

/// Which models should serve.
pub mod models {
    /// Version 1.
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!("generated/rampart.models.v1.rs");
    }
}

/// What the balancers report to the SLA tracker.
pub mod sla {
    /// Version 1.
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated"
    )]
    pub mod v1 {
        include!("generated/rampart.sla.v1.rs");
    }
}

/// Open Inference Protocol v2.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unused_qualifications,
    reason = "generated"
)]
pub mod inference {
    include!("generated/inference.rs");
}

/// All of the above as an encoded `google.protobuf.FileDescriptorSet`, to enumerate services and methods from.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.bin");

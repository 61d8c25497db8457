//! What becomes of a model that a worker is to load.

use std::sync::Once;

use serde::{Deserialize, Serialize};

use super::{Message, sandbox::Sandbox};
use crate::{
    fault::{LoadFault, Reason},
    signature::Signature,
};

/// What a worker says of a model that it was to load.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The model serves.
    Accepted {
        /// What the process took at its peak, but for files that it shares with others.
        process_bytes: u64,
        /// What this load added to it.
        model_bytes: u64,
        /// In the order of the file.
        signature: Signature,
        sandbox: Sandbox,
    },
    /// It does not, as a [`LoadFault`].
    Refused { reason: Reason, detail: String },
}

/// A model that a worker has loaded and proved.
pub(crate) struct Loaded {
    /// What the process took at its peak.
    pub(crate) process_bytes: u64,
    /// What the load added to it.
    pub(crate) model_bytes: u64,
    /// In the order of the file.
    pub(crate) signature: Signature,
}

/// Why a worker that computes already has not loaded a model.
pub(crate) enum NotLoaded {
    /// It was gone before it had read the load.
    Unread,
    /// The model or the machine is at fault.
    Refused(LoadFault),
    /// The worker ended of it, or was ended.
    Ended(LoadFault),
}

// === impl Verdict ===

impl Verdict {
    pub(super) fn read(message: Message) -> Result<Self, LoadFault> {
        serde_json::from_slice(&message.text().map_err(LoadFault::internal)?).map_err(LoadFault::internal)
    }

    /// The process that says so has run the model.
    pub(super) fn judge(self, signature: &Signature) -> Result<Loaded, LoadFault> {
        match self {
            Self::Refused { reason, detail } => Err(LoadFault::new(reason, detail)),
            Self::Accepted { process_bytes, model_bytes, signature: real, sandbox } => {
                if !signature.in_order_of(&real).is_ok_and(|declared| declared == real) {
                    let detail = "its process names another signature than is declared";
                    return Err(LoadFault::new(Reason::Signature, detail));
                }
                sandbox.warn_once();
                Ok(Loaded { process_bytes, model_bytes, signature: real })
            }
        }
    }
}

impl From<LoadFault> for Verdict {
    fn from(LoadFault { reason, detail }: LoadFault) -> Self {
        Self::Refused { reason, detail }
    }
}

// === impl NotLoaded ===

impl From<NotLoaded> for LoadFault {
    fn from(not_loaded: NotLoaded) -> Self {
        match not_loaded {
            NotLoaded::Unread => Self::internal("its processes ended before they had read the model"),
            NotLoaded::Refused(fault) | NotLoaded::Ended(fault) => fault,
        }
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Says once in the life of the process that workers are less confined than they could be.
    fn warn_once(self) {
        static SAID: Once = Once::new();
        if !(self.landlock && self.seccomp) {
            SAID.call_once(|| {
                tracing::warn!(
                    landlock = self.landlock,
                    seccomp = self.seccomp,
                    "this kernel cannot confine the processes of models as far as it should; they run with what there is"
                );
            });
        }
    }
}

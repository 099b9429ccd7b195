//! Why a place may not be used, and what to do about it.

use super::Spoken;
use crate::cli::messages::translated;
use crate::model::{Advice, Refusal, Remedy};

impl Spoken for Advice {
    fn spoken(&self) -> String {
        match self {
            Self::FreeSpace => translated!(self, "error-access-space"),
            Self::Refused(refusal) => refusal.spoken(),
            Self::Disk { place } => translated!(self, "error-access-disk", place = place),
        }
    }
}

impl Spoken for Refusal {
    fn spoken(&self) -> String {
        match self {
            Self::MountedReadOnly { place, kind } => translated!(
                self,
                "error-access-mounted-read-only",
                place = %place.display(),
                kind = kind
            ),
            Self::ReadOnly => translated!(self, "error-access-read-only"),
            Self::Hidden { place, us } => {
                translated!(self, "error-access-hidden", place = %place.display(), user = us)
            }
            Self::Owned {
                place,
                owner,
                mode,
                us,
                remedy,
            } => {
                let mode = format!("{mode:04o}");
                if remedy.is_beyond_modes() {
                    return translated!(
                        self,
                        "error-access-allowed",
                        place = %place.display(),
                        owner = owner,
                        mode = mode,
                        user = us,
                        why = remedy.spoken()
                    );
                }
                translated!(
                    self,
                    "error-access-owned",
                    place = %place.display(),
                    owner = owner,
                    mode = mode,
                    user = us,
                    remedy = remedy.spoken()
                )
            }
        }
    }
}

impl Spoken for Remedy {
    fn spoken(&self) -> String {
        match self {
            Self::Ours { place } => {
                translated!(self, "error-access-ours", place = %place.display())
            }
            Self::OpenMachines { store } => {
                translated!(self, "error-access-open", store = %store.display())
            }
            Self::AskToRead { owner } => translated!(self, "error-access-ask", owner = owner),
            Self::MachinesPuller { owner, store } => translated!(
                self,
                "error-access-puller",
                owner = owner,
                store = %store.display()
            ),
            Self::OwnStore { owner } => {
                translated!(self, "error-access-own-store", owner = owner)
            }
            Self::Selinux {
                place,
                context: Some(context),
            } => translated!(
                self,
                "error-access-selinux",
                place = %place.display(),
                context = context
            ),
            Self::Selinux {
                place,
                context: None,
            } => {
                translated!(self, "error-access-selinux-none", place = %place.display())
            }
            Self::Apparmor { profile } => {
                translated!(self, "error-access-apparmor", profile = profile)
            }
            Self::Beyond => translated!(self, "error-access-beyond"),
        }
    }
}

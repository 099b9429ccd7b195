//! The driver of a provider's device, and the devices it has.
//!
//! Read from what the kernel shows. NVIDIA's own library would tell more, and would be
//! loaded into this process for it: code of the driver whose faults are to stay outside
//! until it has proven itself. What memory a GPU has (`gpu`) is asked of it afterwards.

use std::io::Read;
use std::path::Path;

use super::provider::Provider;

/// Where NVIDIA's kernel module shows itself.
const NVIDIA: &str = "/proc/driver/nvidia";

/// Most that is read of a file of its.
const LONGEST: u64 = 64 << 10;

/// The driver's version; `None` where none is loaded, or it does not show itself (as
/// under WSL), and for the processor.
pub fn version(provider: Provider) -> Option<String> {
    match provider {
        Provider::Cuda => nvidia_version(&read(&Path::new(NVIDIA).join("version"))?),
        // Its driver is a part of the system.
        Provider::CoreMl => Some(rustix::system::uname().release().to_string_lossy().into()),
        Provider::Cpu => None,
    }
}

/// Models of the devices that the provider's driver has, as far as it shows them.
pub fn devices(provider: Provider) -> Vec<String> {
    match provider {
        Provider::Cuda => nvidia_devices(),
        Provider::CoreMl | Provider::Cpu => Vec::new(),
    }
}

fn nvidia_devices() -> Vec<String> {
    let gpus = std::fs::read_dir(Path::new(NVIDIA).join("gpus"));
    let mut folders: Vec<_> = gpus.into_iter().flatten().flatten().collect();
    folders.sort_by_key(std::fs::DirEntry::file_name);
    let model = |folder: std::fs::DirEntry| model(&read(&folder.path().join("information"))?);
    folders.into_iter().filter_map(model).collect()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The number in `NVRM version: NVIDIA UNIX … Kernel Module  570.86.15  Tue …`.
fn nvidia_version(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.starts_with("NVRM version:"))?;
    let number = |word: &&str| {
        let parts: Vec<_> = word.split('.').collect();
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        parts.len() > 1 && parts.iter().all(digits)
    };
    line.split_whitespace().find(number).map(str::to_owned)
}

/// The name in `Model:   NVIDIA H200`. The same file has serial numbers.
fn model(information: &str) -> Option<String> {
    let line = |line: &str| Some(line.strip_prefix("Model:")?.trim().to_owned());
    information.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kernel_modules_tell_their_version() {
        for (text, version) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n\
                 GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
                Some("550.54.14"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  \
                 (dvs-builder@U22)  Sun Jul 27 06:56:34 UTC 2025\n",
                Some("580.65.06"),
            ),
            ("GCC version:  gcc version 12.2.0\n", None),
            ("", None),
        ] {
            assert_eq!(nvidia_version(text).as_deref(), version, "{text}");
        }
    }

    #[test]
    fn a_device_is_told_without_its_serial_number() {
        let text = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\nGPU UUID: \t GPU-0f1e2d3c\n";
        assert_eq!(model(text).as_deref(), Some("NVIDIA H200"));
        assert_eq!(model("IRQ: 1"), None);
    }

    #[test]
    fn the_processor_has_no_driver() {
        assert_eq!(version(Provider::Cpu), None);
        assert!(devices(Provider::Cpu).is_empty());
    }
}

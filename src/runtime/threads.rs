//! How many threads inference should use.

use crate::platform;

/// Physical cores this process may run on, at least 1.
///
/// Two hardware threads of one core share its vector units, so a second one
/// gains nothing in matrix products. A processor affinity or a control group's
/// quota lowers the number.
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cores = platform::physical_cores();
    cores.map_or(allowed, |cores| cores.min(allowed)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_one() {
        assert!(physical_cores() >= 1);
    }
}

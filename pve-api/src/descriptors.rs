//! How many files and connections the system lets this process have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For files, the database, and images that come and go.
const OTHERS: u64 = 256;

/// Raises the limit as far as the process itself may; how many of the connections fit under it.
pub(crate) fn enough_for(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "The limit of open files stays");
            limit.current
        }
    };
    let fit = fit(connections, current);
    if fit < connections {
        tracing::warn!(
            fit,
            "Of --max-connections {connections} only {fit} fit under the system's limit of open \
             files: raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    fit
}

/// Pure: how many connections fit under a limit; none is no limit.
fn fit(connections: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return connections };
    // Half of a limit that is hardly worth the name.
    let room = limit.saturating_sub(OTHERS).max(limit / 2).max(1);
    usize::try_from(room).map_or(connections, |room| room.min(connections))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_left_for_files_and_the_database() {
        assert_eq!(fit(10_000, None), 10_000);
        assert_eq!(fit(10_000, Some(1 << 20)), 10_000);
        assert_eq!(fit(10_000, Some(1024)), 768);
        assert_eq!(fit(10_000, Some(100)), 50);
        assert_eq!(fit(10_000, Some(0)), 1);
    }
}

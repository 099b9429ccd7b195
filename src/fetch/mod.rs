//! The downloader: a hub or any mirror of one, resumable and proven. Command line only.

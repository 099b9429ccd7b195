//! The custom operators `gptoss:*`, registered through ort.
